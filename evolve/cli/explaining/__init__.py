"""`evolve plans MODEL --explain`: what is known of fused plans, and how it is told."""
