"""Which products may be computed more coarsely, and how."""
