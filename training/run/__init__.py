"""A whole training run, from data set to checkpoint directory."""
