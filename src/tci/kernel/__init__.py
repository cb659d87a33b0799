"""The Jupyter kernel: the program that becomes it inside a sandbox, and the client outside."""
