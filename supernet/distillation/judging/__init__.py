"""How far sub-networks agree with the original, on inputs that teach nothing."""
