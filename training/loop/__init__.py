"""The training loop: steps, epochs, processes and resumption."""
