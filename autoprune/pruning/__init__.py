"""The elastic model: which channels go together, which matter, and any cut of them; its MACs and parameters."""
