"""What an input-adaptive model came to."""
