"""From Python: `compress`, `inspect`, `cut`."""
