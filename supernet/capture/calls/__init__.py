"""A call taken apart into flat tensors, and its results put together again."""
