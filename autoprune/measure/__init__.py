"""What a call takes: time that neighbours do not spoil, memory, energy, and the device that it was measured on."""
