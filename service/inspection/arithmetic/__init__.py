"""The arithmetic of one unit, by ONNX operator: which numbers make a value, and with which weights."""
