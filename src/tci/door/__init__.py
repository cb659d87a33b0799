"""The narrow door to the Docker engine: lets through what the driver needs, and nothing that reaches the host."""
