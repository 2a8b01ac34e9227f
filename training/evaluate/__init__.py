"""Metrics, calibration and their plots."""
