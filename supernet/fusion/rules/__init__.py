"""Which operators are worth running as one."""
