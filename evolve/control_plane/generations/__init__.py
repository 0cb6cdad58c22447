"""Every few minutes: smaller sub-networks found, adopted, and let go."""
