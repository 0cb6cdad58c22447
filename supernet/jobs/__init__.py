"""Work in processes of its own: started, followed, held up, ended."""
