"""Batch jobs on a running server, instead of with an artifact on this machine."""
