"""The path from a request to its answer: queue, rule, lane, worker, promise."""
