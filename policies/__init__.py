"""Searchers: agents, baselines, and the heuristics that warm-start them."""
