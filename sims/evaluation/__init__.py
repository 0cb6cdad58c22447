"""Policies set beside each other on the same arrivals."""
