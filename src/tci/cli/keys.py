"""`tci keys`: makes, bounds, lists and revokes API keys."""

import asyncio
import sys
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer

from tci.settings import EgressPolicy, Settings
from tci.storage.account_store import NO_QUOTA, AccountStore, ApiKey, Quota
from tci.storage.database import open_database, require_current_schema
from tci.storage.usage_store import in_dollars

DEFAULT_ACCOUNT = "default"

NO_BOUND = "none"

MAX_COUNT = 2**31 - 1
MAX_USD = Decimal(10**8)
"""What the columns hold."""

app = typer.Typer(no_args_is_help=True, help="Make, bound, list and revoke API keys.")

MaxSessions = Annotated[
    str | None, typer.Option("--max-sessions", metavar="N", help="Live sessions at once, or none: no bound.")
]
SessionsPerDay = Annotated[
    str | None, typer.Option("--sessions-per-day", metavar="N", help="Sessions opened in a day of UTC, or none.")
]
SpendPerMonth = Annotated[
    str | None, typer.Option("--spend-per-month", metavar="USD", help="US dollars spent in a month of UTC, or none.")
]
ExecutionsPerMinute = Annotated[
    str | None, typer.Option("--executions-per-minute", metavar="N", help="Executions begun in a minute, or none.")
]


@app.command("create")
def create_key(
    *,
    account: Annotated[str, typer.Option(help="Account that the key belongs to; made if it is new.")] = DEFAULT_ACCOUNT,
    egress: Annotated[
        EgressPolicy | None,
        typer.Option(help="What its sessions may reach at most; left out: what the service allows."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Let it see the usage of every account.")] = False,
    max_sessions: MaxSessions = None,
    sessions_per_day: SessionsPerDay = None,
    spend_per_month: SpendPerMonth = None,
    executions_per_minute: ExecutionsPerMinute = None,
    if_none: Annotated[bool, typer.Option("--if-none", help="Do nothing if there is any key.")] = False,
) -> None:
    """Make a key and print it, once: only its hash is stored."""
    quota = _changed(NO_QUOTA, max_sessions, sessions_per_day, spend_per_month, executions_per_minute)

    async def run() -> None:
        settings = Settings()
        async with open_database(settings) as engine:
            await require_current_schema(engine)
            store = AccountStore(engine)
            if if_none and (settings.bootstrap_api_key or await store.list_keys()):
                return
            key = await store.create_key(account, egress=egress, is_admin=admin, quota=quota)
        typer.echo(key) if not if_none else typer.echo(_first_key(settings, key))

    asyncio.run(run())


@app.command("limit")
def limit_key(
    key_id: int,
    *,
    max_sessions: MaxSessions = None,
    sessions_per_day: SessionsPerDay = None,
    spend_per_month: SpendPerMonth = None,
    executions_per_minute: ExecutionsPerMinute = None,
) -> None:
    """Change bounds of the key of this id; those left out stay as they are. It works from the next request on."""
    given = (max_sessions, sessions_per_day, spend_per_month, executions_per_minute)
    _changed(NO_QUOTA, *given)  # what is malformed is told before the database is opened

    async def run() -> ApiKey | None:
        async with open_database(Settings()) as engine:
            await require_current_schema(engine)
            store = AccountStore(engine)
            before = next((key for key in await store.list_keys() if key.id == key_id), None)
            if before is None:
                return None
            after = replace(before, quota=_changed(before.quota, *given))
            return after if await store.set_quota(key_id, after.quota) else None

    key = asyncio.run(run())
    if key is None:
        sys.exit(f"tci: there is no key {key_id}")
    typer.echo(f"Key {key_id}: {_shown(key.quota)}")


@app.command("list")
def list_keys() -> None:
    """List keys: id, account, first characters, date, state, what code may reach at most, rights, bounds."""

    async def run() -> None:
        async with open_database(Settings()) as engine:
            for key in await AccountStore(engine).list_keys():
                typer.echo("\t".join(_columns(key)))

    asyncio.run(run())


@app.command("revoke")
def revoke_key(key_id: int) -> None:
    """Revoke the key of this id (see `tci keys list`)."""

    async def run() -> bool:
        async with open_database(Settings()) as engine:
            return await AccountStore(engine).revoke_key(key_id)

    if not asyncio.run(run()):
        sys.exit(f"tci: there is no valid key {key_id}")
    typer.echo(f"Key {key_id} is revoked.")


def _changed(before: Quota, sessions: str | None, per_day: str | None, spend: str | None, rate: str | None) -> Quota:
    """Return a quota with the bounds that are given."""
    after = before
    if sessions is not None:
        after = replace(after, max_sessions=_count(sessions))
    if per_day is not None:
        after = replace(after, max_sessions_per_day=_count(per_day))
    if spend is not None:
        after = replace(after, max_spend_per_month_usd=_usd(spend))
    if rate is not None:
        after = replace(after, max_executions_per_minute=_count(rate))
    return after


def _count(text: str) -> int | None:
    if text == NO_BOUND:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(MAX_COUNT)) or int(text) > MAX_COUNT:
        raise typer.BadParameter(f"'{text}' is neither a whole number nor '{NO_BOUND}'.")
    return int(text)


def _usd(text: str) -> Decimal | None:
    if text == NO_BOUND:
        return None
    try:
        amount = Decimal(text)
        is_amount = 0 <= amount < MAX_USD and amount == round(amount, 6)
    except InvalidOperation:  # no number, or not a number
        is_amount = False
    if not is_amount:
        raise typer.BadParameter(f"'{text}' is neither an amount, as 9.99, nor '{NO_BOUND}'.")
    return amount


def _columns(key: ApiKey) -> list[str]:
    return [
        str(key.id),
        key.account,
        f"{key.prefix}...",
        f"{key.created_at:%Y-%m-%d}",
        f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid",
        key.egress or "-",
        "admin" if key.is_admin else "-",
        _shown(key.quota),
    ]


def _shown(quota: Quota) -> str:
    spend = quota.max_spend_per_month_usd
    bounds = {
        "sessions": quota.max_sessions,
        "sessions/day": quota.max_sessions_per_day,
        "USD/month": None if spend is None else in_dollars(spend),
        "executions/minute": quota.max_executions_per_minute,
    }
    return " ".join(f"{name}={bound}" for name, bound in bounds.items() if bound is not None) or "no bounds"


def _first_key(settings: Settings, key: str) -> str:
    url = f"http://{settings.host}:{settings.port}"
    return (
        f"\nYour API key, shown this once:\n\n    {key}\n\nOnce the server is up, try it:\n\n"
        f"    curl {url}/tci/execute -H 'Authorization: Bearer {key}' \\\n"
        f'      -H \'Content-Type: application/json\' -d \'{{"language": "python", "code": "print(1 + 1)"}}\'\n'
    )
