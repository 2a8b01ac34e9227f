"""One writer for each exported format."""
