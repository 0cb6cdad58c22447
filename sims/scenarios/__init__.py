"""Services that one engine alone does not tell of: a surge, a fleet of unlike devices."""
