"""Jobs, each in a process of its own: started, followed, held up, ended. See ARCHITECTURE.md."""
