"""`evolve simulate`: policies on a trace or a suite, as tables, JSON and pictures."""
