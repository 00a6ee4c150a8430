"""What is trained once per base model: roll-outs, successor head, experts, reward models, and the basis."""
