"""ONNX files of models: written, cleaned and checked."""
