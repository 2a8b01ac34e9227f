"""HTTP requests and responses, without routes."""
