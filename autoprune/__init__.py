"""autoprune: a trained network gets smaller and faster without losing accuracy."""

__version__ = "0.1.0"
