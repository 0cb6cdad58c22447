"""Plans built, verified, timed and compared, each step in a process of its own."""
