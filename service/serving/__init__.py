"""Served models: the catalog, batching, decoding and loading."""
