"""`python -m tci` is the same as the `tci` command."""

from tci.cli import main

main()
