"""Train a reward model for the rule "args"."""
