"""Live answers compared with the original's, and what a difference takes back."""
