"""What a step of training is, on what, and the states to go on from."""
