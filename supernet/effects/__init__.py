"""Side effects and state: what a model does and holds beside answering, and what that rules out."""
