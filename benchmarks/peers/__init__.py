"""Other pruning libraries beside a finished run: see `benchmarks/compare_peers.py`."""
