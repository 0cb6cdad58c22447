"""From a spec to a smaller graph, its weights, and a program."""
