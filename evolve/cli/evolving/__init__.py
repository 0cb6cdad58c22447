"""`evolve search` and `evolve distill`: smaller versions of a model, found and trained."""
