"""The page of an input-adaptive model."""
