"""Feature maps of served models."""
