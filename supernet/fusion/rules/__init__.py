"""Fusion rules: which operators are worth running as one."""
