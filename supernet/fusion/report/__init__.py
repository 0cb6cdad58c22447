"""A report on the regions of a built plan: what they run on and save, in words and pictures."""
