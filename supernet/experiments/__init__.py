"""Inputs that a model is shown, its answers, and what they tell of it."""
