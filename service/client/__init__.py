"""A typed client of the server's own routes."""
