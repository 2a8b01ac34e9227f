"""The checkpoint directory and the weights in it or from elsewhere."""
