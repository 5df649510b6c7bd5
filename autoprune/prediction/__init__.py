"""Latency and energy of a cut, predicted from measured layers; the widths at which time steps down."""
