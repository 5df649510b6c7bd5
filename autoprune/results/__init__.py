"""What runs leave as JSON: schemas, and the arithmetic of a loss of accuracy."""
