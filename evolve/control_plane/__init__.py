"""What changes how requests are answered: the tick, plans built and loaded, policies trained."""
