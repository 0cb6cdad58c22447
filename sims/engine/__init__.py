"""One simulated service, compiled: queue, workers, clock, and what a policy sees of it."""
