"""Thousands of mixed executions, one in ten of them hostile, and nothing left behind."""
