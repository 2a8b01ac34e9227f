"""The checkpoint directory, and weights from it or from other files."""
