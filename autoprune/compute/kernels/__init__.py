"""Kernels of our own, each patched into a network for as long as a block runs."""
