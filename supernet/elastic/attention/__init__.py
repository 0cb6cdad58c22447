"""Attention found in a graph, and the other kinds that may stand in its place."""
