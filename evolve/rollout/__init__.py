"""Rollout of what answers otherwise than the model: one stage after another, or straight back."""
