"""What is trained once per base model: roll-outs, successor head, experts, and the basis made of them."""
