"""The isolation boundary around one kernel, and the drivers that make it."""
