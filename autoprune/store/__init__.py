"""What a run keeps: its folder and its database of trials and facts."""
