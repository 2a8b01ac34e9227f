"""The verbs `serve`, `classify`, `inspect` and `demo`."""
