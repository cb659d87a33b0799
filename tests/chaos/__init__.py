"""Load while parts die, and the books afterwards: `python -m tests.chaos --help`."""
