"""Decoding of image bytes to the uint8 array that a network takes, and its normalisation."""
