"""Metrics, calibration and their pictures."""
