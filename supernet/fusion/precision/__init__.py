"""Mixed precision: which products may be computed more coarsely, and how."""
