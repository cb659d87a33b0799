"""HTTP in, HTTP out: the only room that knows FastAPI."""
