"""`tci shell`: Python's own prompt, on a session of a service."""

import ast
import codeop
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tci.cli.caller import Caller, Ended, Fault, Opened, Run, Shown
from tci.cli.run import SERVICE_FAILED, Output, Session, Timeout
from tci.cli.screen import Screen

FIRST, NEXT = ">>> ", "... "
"""The prompts."""

HISTORY_LINES = 1000

ENDS_SESSION = "session_not_found"


def open_shell(*, session: Session = None, timeout: Timeout = None, output: Output = None) -> None:
    """Type Python into a session of the service at TCI_BASE_URL; Ctrl-C interrupts the code, Ctrl-D ends.

    The session lives on until it expires: go on with it by --session.
    """
    screen = Screen(output)
    try:
        with Caller.from_environment() as caller:
            shell = Shell(caller, screen, session_id=session, timeout=timeout)
            shell.begin()
            with_history(shell.loop)
    except Fault as fault:
        screen.complain(f"tci: {fault}")
        sys.exit(SERVICE_FAILED)
    except KeyboardInterrupt:  # at the very start
        sys.exit(SERVICE_FAILED)


class Shell:
    """Reads statements, and has each run in the session."""

    def __init__(self, caller: Caller, screen: Screen, *, session_id: str | None, timeout: float | None) -> None:
        self._caller = caller
        self._screen = screen
        self._session_id = session_id
        self._timeout = timeout

    def begin(self) -> None:
        """Open the session, or see that it lives; raises Fault.

        Not with the first statement: a new session is ended if its caller leaves before having heard its id.
        """
        for event in self._caller.execute(Run("", self._session_id)):
            match event:
                case Opened():
                    self._session_id = event.session_id
                case Ended():
                    self._screen.remark(f"{self._session_id}, until {event.execution['expires_at']}. Ctrl-D ends.")
                case Shown():
                    self._screen.show(event)

    def loop(self) -> None:
        """Read and run until the input ends; raises Fault where the session is over."""
        source = ""
        while True:
            try:
                source += input(self._prompt(source))
            except EOFError:
                if source.strip() and not sys.stdin.isatty():
                    self._run(source)
                self._screen.remark("")
                return
            except KeyboardInterrupt:
                self._screen.complain("\nKeyboardInterrupt")
                source = ""
                continue
            if is_complete(source):
                self._run(source)
                source = ""
            else:
                source += "\n"

    @staticmethod
    def _prompt(source: str) -> str:
        if not sys.stdin.isatty():
            return ""
        return NEXT if source else FIRST

    def _run(self, source: str) -> None:
        if not source.strip():
            return
        try:
            with self._screen.progress():
                for event in self._caller.execute(Run(source, self._session_id, timeout=self._timeout)):
                    if isinstance(event, Shown):
                        self._screen.show(event)
        except KeyboardInterrupt:  # the dropped connection interrupts the code
            self._screen.complain("\nKeyboardInterrupt")
        except Fault as fault:
            if fault.code == ENDS_SESSION:
                raise
            self._screen.complain(f"tci: {fault}")


def is_complete(source: str) -> bool:
    """Whether to run what was typed so far, by the rules of Python's own prompt.

    What Python can't read is complete: it may be IPython's (`!ls`), and if it is not, the session says so.
    """
    if source.startswith("%%"):  # magic of a whole cell
        return source.endswith("\n")
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return compiler(source) is not None
        except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
            return True


def with_history(loop: Callable[[], None]) -> None:
    """Run a loop whose lines can be edited, and found again the next time."""
    try:
        import readline  # noqa: PLC0415 (some Pythons are built without it)
    except ImportError:
        loop()
        return
    directory = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "tci"
    history = directory / "shell_history"
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(HISTORY_LINES)
    try:
        loop()
    finally:
        with suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            history.touch(mode=0o600)
            readline.write_history_file(history)
