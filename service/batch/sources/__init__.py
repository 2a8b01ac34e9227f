"""The kinds of sources of a batch job."""
