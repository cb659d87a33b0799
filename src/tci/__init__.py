"""A self-hosted server for the Code Interpreter API."""
