"""The ASGI application: admission control, routing, errors, and the routes for operations."""
