"""What the dims of every value in a graph are made of, and which of them are one."""
