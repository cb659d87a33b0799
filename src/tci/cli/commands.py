"""The operator's commands: a second front door to the same objects."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from tci import guard, serving
from tci.app import open_parts
from tci.cli import calls, keys
from tci.cli.keys import DEFAULT_ACCOUNT
from tci.cli.usage import show_usage
from tci.doctor.run import examine
from tci.door.door import serve_door
from tci.egress.open import effective_policy, serve_proxy
from tci.errors import SetupError
from tci.log import configure_logging
from tci.sandbox import choose, docker
from tci.settings import Settings
from tci.storage.account_store import AccountStore
from tci.storage.database import migrate as migrate_database
from tci.storage.database import open_database, require_current_schema
from tci.storage.redis_client import open_redis
from tci.storage.session_store import EndReason

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A self-hosted server for the Code Interpreter API.")
sessions = typer.Typer(no_args_is_help=True, help="List and end sessions.")
sandbox = typer.Typer(no_args_is_help=True, help="Prepare what sandboxes are made of.")
app.add_typer(keys.app, name="keys")
app.add_typer(sessions, name="sessions")
app.add_typer(sandbox, name="sandbox")
app.command(name="usage")(show_usage)
app.registered_commands += calls.app.registered_commands  # so that the help tells of them


def main() -> None:
    """Run the command line; a missing part is one clear sentence, not a traceback."""
    try:
        app()
    except SetupError as error:
        sys.exit(f"tci: {error}")
    except ValidationError as error:  # the settings are the only model that the command line fills
        first = error.errors()[0]
        sys.exit(f"tci: TCI_{str(first['loc'][0]).upper()}: {first['msg']}")


@app.command()
def serve(
    workers: Annotated[int, typer.Option(min=1, help="Processes that serve; they share everything.")] = 1,
    descriptor: Annotated[int | None, typer.Option(hidden=True)] = None,
    supervisor: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Serve the API in the foreground until SIGINT or SIGTERM."""
    settings = Settings()
    configure_logging(settings.log_level)
    if descriptor is not None:  # a worker of a supervisor, which has looked already
        sys.exit(serving.run_child(settings, descriptor=descriptor, supervisor=supervisor))
    asyncio.run(_check(settings))
    sys.exit(serving.serve(settings, workers=workers))


async def _check(settings: Settings) -> None:
    """Find what is missing or stands open before uvicorn starts, whose word for it would be a traceback."""
    engine_url = await docker.engine_url(settings)
    guard.require_safe(settings, engine=engine_url, shown=choose.shown_paths(settings))
    async with open_database(settings) as engine:
        await require_current_schema(engine)
        store = AccountStore(engine)
        if settings.bootstrap_api_key:
            value = settings.bootstrap_api_key.get_secret_value()
            await store.create_key(DEFAULT_ACCOUNT, value=value)
        guard.require_key(settings, has_key=any(key.revoked_at is None for key in await store.list_keys()))
    if settings.redis_url is not None:
        async with open_redis(settings):
            pass
    async with choose.open_driver(settings, deployment=""):
        pass
    effective_policy(settings)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look at this machine, attack a sandbox, and print what stopped each attack; exit status 1 on a hole."""
    configure_logging("warning")
    try:
        report = asyncio.run(examine(Settings(), lambda line: typer.echo(line, err=True)))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGINT)
    typer.echo(report.as_json() if as_json else report.as_text())
    sys.exit(1 if report.has_hole else 0)


@app.command()
def migrate() -> None:
    """Bring the database to this version's schema."""

    async def run() -> None:
        async with open_database(Settings()) as engine:
            await migrate_database(engine)

    asyncio.run(run())


@app.command()
def egress(
    address: Annotated[str, typer.Option(help="Address to listen on; one of version 6 in brackets.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of policy packages; the next is that of open.")] = 3128,
) -> None:
    """Run the proxy for services elsewhere, which name it in TCI_EGRESS_PROXY."""
    configure_logging(Settings().log_level)
    asyncio.run(_until_stopped(serve_proxy(Settings(), address=address, port=port)))


@app.command()
def door(
    path: Annotated[Path | None, typer.Option("--socket", help="UNIX socket to listen on; in TCI_DATA_DIR.")] = None,
) -> None:
    """Let a service command the Docker engine as far as it needs to, and no further: TCI_DOCKER_HOST=unix://SOCKET."""
    settings = Settings()
    configure_logging(settings.log_level)
    asyncio.run(_until_stopped(serve_door(settings, socket=path or settings.data_dir / "door" / "engine.sock")))


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run work until it is done or a signal asks to stop."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


@sandbox.command()
def prepare() -> None:
    """Build the image, or install the environment, that sandboxes are made of."""
    asyncio.run(choose.prepare(Settings(), lambda line: typer.echo(line, err=True)))


@app.command()
def pool() -> None:
    """Show the warm pool: sandboxes ready now; new sessions that found one and that did not; sandboxes made, failed."""

    async def run() -> None:
        configure_logging("warning")
        async with open_parts(Settings()) as parts:
            figures = await parts.pool.figures()
        for name, value in asdict(figures).items():
            typer.echo(f"{name}\t{value}")

    asyncio.run(run())


@sessions.command("list")
def list_sessions() -> None:
    """List live sessions: id, account, start, expiry, executions."""

    async def run() -> None:
        configure_logging("warning")
        async with open_parts(Settings()) as parts:
            for session in await parts.store.list_live():
                typer.echo(
                    f"{session.id}\t{session.account}\t{session.started_at:%Y-%m-%dT%H:%M:%SZ}"
                    f"\t{session.expires_at:%Y-%m-%dT%H:%M:%SZ}\t{session.execute_count}"
                )

    asyncio.run(run())


@sessions.command("end")
def end_session(session_id: str) -> None:
    """End a session and its sandbox now."""

    async def run() -> bool:
        configure_logging("warning")
        async with open_parts(Settings()) as parts:
            session = await parts.store.get(session_id)
            if session is None or not session.is_live:
                return False
            await parts.sessions.end(session, EndReason.ENDED)
            return True

    if not asyncio.run(run()):
        sys.exit(f"tci: there is no live session {session_id}")
    typer.echo(f"Session {session_id} has ended.")
