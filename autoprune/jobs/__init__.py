"""Whole jobs, put together from steps."""
