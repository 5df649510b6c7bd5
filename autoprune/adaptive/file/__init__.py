"""One ONNX file of all levels: written, loaded, measured."""
