"""What a network is for: what it is trained towards, and how its answers are judged."""
