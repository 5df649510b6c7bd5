"""What bounds each layer of a file: arithmetic, memory or overhead."""
