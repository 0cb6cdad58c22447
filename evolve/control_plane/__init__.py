"""Control of how requests are answered: the tick, plans built and loaded, policies trained."""
