"""`tci run`: runs a program on a service, and says by its exit status whether the code or the service failed."""

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tci.cli.caller import Caller, Ended, Fault, Opened, Run, Shown
from tci.cli.screen import Screen

CODE_FAILED = 1
SERVICE_FAILED = 2
INTERRUPTED = 130
"""Exit statuses; 0: all went well."""

Session = Annotated[str | None, typer.Option("--session", metavar="ID", help="Go on in this session.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Time limit of each execution.")
]
Output = Annotated[
    Path | None, typer.Option("--output", file_okay=False, metavar="DIR", help="Save images here; else they are named.")
]


def run_code(
    script: Annotated[Path | None, typer.Argument(help="File with Python code; -: standard input.")] = None,
    *,
    code: Annotated[str | None, typer.Option("-c", metavar="CODE", help="The code itself, instead of a file.")] = None,
    session: Session = None,
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PATH", help="Upload a file first, under its own or another name; repeatable."),
    ] = None,
    timeout: Timeout = None,
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, and nothing else.")] = False,
) -> None:
    """Run code on the service at TCI_BASE_URL with the key TCI_API_KEY.

    Exit status: 0 the code ran; 1 it raised, or ran out of time or memory; 2 the service failed, or the call was wrong.
    """
    run = Run(_source(script, code), session, dict(_upload(argument) for argument in file or []), timeout)
    screen = Screen(output)
    try:
        with Caller.from_environment() as caller:
            verdict = _print_json(caller, run) if as_json else _show(caller, run, screen)
    except Fault as fault:
        if as_json:
            typer.echo(json.dumps({"failure": {"code": fault.code, "message": str(fault)}}))
        screen.complain(f"tci: {fault}")
        sys.exit(SERVICE_FAILED)
    except KeyboardInterrupt:  # the dropped connection interrupts the code
        screen.complain("Interrupted")
        sys.exit(INTERRUPTED)
    sys.exit(0 if verdict == "ok" else CODE_FAILED)


def _source(script: Path | None, code: str | None) -> str:
    if (script is None) == (code is None):
        _refuse("Give either a file or -c CODE.")
    if script is None:
        return code or ""
    content = sys.stdin.buffer.read() if str(script) == "-" else _read(script)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        _refuse(f"{script} is not UTF-8.")


def _upload(argument: str) -> tuple[str, bytes]:
    name, separator, path = argument.partition("=")
    if not separator:
        name, path = Path(argument).name, argument
    return name, _read(Path(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        _refuse(f"{path}: {error.strerror}.")


def _refuse(message: str) -> NoReturn:
    raise typer.BadParameter(message)


def _show(caller: Caller, run: Run, screen: Screen) -> str:
    verdict = session_id = ""
    with screen.progress():
        for event in caller.execute(run):
            match event:
                case Opened():
                    session_id = event.session_id
                case Shown():
                    screen.show(event)
                case Ended():
                    verdict = event.verdict
                    screen.remark(f"{session_id}: {verdict}, {event.execution['duration_ms'] / 1000:.3f} s")
    return verdict


def _print_json(caller: Caller, run: Run) -> str:
    data = caller.answer(run)
    typer.echo(json.dumps(data))
    return Ended(data["execution"]).verdict
