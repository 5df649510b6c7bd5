"""What all rests on: errors, bounds, files, progress, chance."""
