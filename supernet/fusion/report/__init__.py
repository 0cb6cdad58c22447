"""What the regions of a built plan run on and save, in words and pictures."""
