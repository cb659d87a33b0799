"""The Model Context Protocol: the same sessions, as tools for agents."""
