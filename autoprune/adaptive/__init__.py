"""Input-adaptive models: nested levels, routes through them, one ONNX file, and the session of a service."""
