"""Comparison of exported files with the trained network: parity, diagnosis and speed."""
