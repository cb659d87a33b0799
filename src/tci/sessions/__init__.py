"""What a caller may do: open, find, execute, list and end sessions."""
