"""The routes under /v1, and /predict."""
