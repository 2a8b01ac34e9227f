"""Artifacts from third-party ONNX classifiers."""
