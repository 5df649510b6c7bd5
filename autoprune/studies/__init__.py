"""Searches as studies of Optuna's: to watch while they go on, and for several workers to share."""
