"""A captured program as a graph of operators, and its regions."""
