"""The command line: `tci run` and `tci shell` for callers, everything else for the operator."""

import sys

CALLERS = {"run", "shell"}
"""Commands that reach a service over HTTP."""


def main() -> None:
    """Run the command line."""
    # Imported here, since all that a service is made of takes seconds, which no caller should wait.
    if sys.argv[1:2] and sys.argv[1] in CALLERS:
        from tci.cli.calls import app  # noqa: PLC0415

        app()
    else:
        from tci.cli.commands import main as command  # noqa: PLC0415

        command()
