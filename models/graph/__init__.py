"""Networks as graphs of named nodes: tracing, the node table and receptive fields."""
