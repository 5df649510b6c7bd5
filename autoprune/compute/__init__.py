"""The machine: cores, memory, threads."""
