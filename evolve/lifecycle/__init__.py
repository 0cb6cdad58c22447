"""One capture of the model after another: made, put in force, retired, ended."""
