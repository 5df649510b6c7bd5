"""The command line: options and what is printed; the work is done elsewhere."""
