"""Batch jobs: every image of a source classified once, and one row written for each."""
