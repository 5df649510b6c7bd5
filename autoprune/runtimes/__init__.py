"""What runs a file."""
