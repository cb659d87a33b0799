"""The commands of callers, which know nothing of the service but its wire."""

import typer

from tci.cli.run import run_code
from tci.cli.shell import open_shell

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command(name="run")(run_code)
app.command(name="shell")(open_shell)
