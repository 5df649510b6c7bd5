"""What all rests on: bounds, files, progress, chance."""
