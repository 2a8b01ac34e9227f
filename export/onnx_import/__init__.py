"""Artifacts from ONNX classifiers that were trained elsewhere."""
