"""Levels: nested cuts of one elastic model, trained together."""
