"""Other pruning libraries beside a finished run: see `scripts/compare_peers.py`."""
