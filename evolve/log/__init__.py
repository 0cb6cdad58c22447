"""What is done with a journal's file: hold and write it, read it, query, explain and plot it."""
