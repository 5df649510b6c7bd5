"""Trials on other machines, over SSH: what goes there, what scores there, and what comes back."""
