"""The verbs `export`, `verify`, `evaluate`, `summary`, `bench` and `import-onnx`."""
