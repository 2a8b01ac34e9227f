"""The application: routing, errors and what stands before them."""
