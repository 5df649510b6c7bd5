"""`autoprune bench`: model files side by side, in any runtime, with honest intervals."""
