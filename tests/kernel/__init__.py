"""What comes from a kernel, as values, without a kernel."""
