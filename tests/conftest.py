"""What all tests share: no display is needed, and hypothesis does not mistake a busy machine for a slow test."""

import os

import hypothesis

os.environ.setdefault("MPLBACKEND", "Agg")
hypothesis.settings.register_profile("autoprune", deadline=None, print_blob=True)
hypothesis.settings.load_profile("autoprune")
