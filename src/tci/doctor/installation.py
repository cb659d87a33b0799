"""Looks at how the service is set up: secrets, the data directory, the address, the servers it uses."""

import datetime as dt
import os
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from sqlalchemy import func, select

from tci import guard
from tci.doctor.finding import Finding, hole, judged, ok, weak
from tci.errors import SetupError, Unavailable
from tci.settings import Settings
from tci.storage.account_store import AccountStore
from tci.storage.database import open_database, require_current_schema
from tci.storage.lease_store import LeaseStore
from tci.storage.redis_client import open_redis

CLOCK_SECONDS = 2.0
"""How far the clocks of two servers may be apart: sessions would end early or late by that."""


async def look_at_installation(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what there is to say of the settings and of the data."""
    yield judged("bootstrap key", guard.weak_bootstrap_key(settings), _of_key(settings))
    database_url, redis_url = settings.database_url, settings.redis_url and settings.redis_url.get_secret_value()
    yield judged("database password", guard.placeholder_password("TCI_DATABASE_URL", database_url), "no placeholder")
    yield judged("Redis password", guard.placeholder_password("TCI_REDIS_URL", redis_url or None), "no placeholder")
    if redis_url:
        yield redis_access(redis_url)
    yield data_directory(settings)
    async for finding in _of_servers(settings):
        yield finding


def _of_key(settings: Settings) -> str:
    return "none is set" if settings.bootstrap_api_key is None else "long, and no placeholder"


def redis_access(url: str) -> Finding:
    """Judge whether others may write to Redis: who does ends sessions and lifts limits."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or guard.is_loopback(parts.hostname or "localhost"):
        return ok("Redis access", "on this machine")
    if parts.password or "password=" in parts.query:
        return ok("Redis access", "with a password")
    mend = "Set one (requirepass), or keep its network to the service alone as docker-compose.yml does."
    return weak("Redis access", f"Redis at {parts.hostname} asks for no password", mend)


def data_directory(settings: Settings) -> Finding:
    """Judge who may enter the data directory."""
    directory = settings.data_dir
    if not directory.exists():
        return ok("data directory", f"{directory} will be made for its owner alone")
    owner = directory.stat().st_uid
    if owner not in {0, os.geteuid()}:
        found = f"{directory} belongs to user {owner}, the service runs as user {os.geteuid()}"
        return weak("data directory", found, f"Run 'chown {os.geteuid()} {directory}'.")
    return judged("data directory", guard.open_data_directory(directory), f"{directory}, its owner's alone")


def address(host: str, *, has_key: bool | None) -> Finding:
    """Judge who reaches the service, and whether a key is asked of them; None where the keys could not be read."""
    if guard.is_loopback(host):
        return ok("address", f"{host}, reached from this machine alone")
    if has_key is None:
        return weak("address", f"{host} is reached by others; the keys could not be read", "Run 'tci keys list'.")
    fault = guard.public_without_key(host, has_key=has_key)
    if fault is not None:
        return hole("address", fault.found, fault.mend)
    mend = "Put a proxy with TLS before it: keys travel in the clear. Let a firewall keep the port to that proxy."
    return weak("address", f"{host} is reached from other machines, over plain HTTP", mend)


async def _of_servers(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what needs the database and Redis; an embedded one is this machine's, with the same clock."""
    has_key: bool | None = False
    if settings.is_embedded and not (settings.data_dir / "tci.sqlite3").exists() and not settings.database_url:
        yield ok("database", "not made yet; 'tci migrate' makes it")
    else:
        try:
            has_key, seconds = await _ask_database(settings)
            yield clock("database", seconds) if not settings.is_embedded else ok("database", "embedded, answers")
        except SetupError as error:
            has_key = None
            yield weak("database", str(error), "'tci serve' will not start before that.")
    yield address(settings.host, has_key=bool(has_key or settings.bootstrap_api_key) if has_key is not None else None)
    if settings.redis_url is not None:
        try:
            yield clock("Redis", await _ask_redis(settings))
        except (SetupError, Unavailable) as error:
            yield weak("Redis", str(error), "'tci serve' will not start before that.")


async def _ask_database(settings: Settings) -> tuple[bool, float]:
    """Return whether any key is valid, and how many seconds its clock is off."""
    async with open_database(settings) as engine:
        await require_current_schema(engine)
        has_key = any(key.revoked_at is None for key in await AccountStore(engine).list_keys())
        if settings.is_embedded:
            return has_key, 0.0
        async with engine.connect() as db:
            return has_key, _off((await db.execute(select(func.now()))).scalar_one())


async def _ask_redis(settings: Settings) -> float:
    async with open_redis(settings) as redis:
        return _off(await LeaseStore(redis, deployment="doctor").now())


def _off(theirs: dt.datetime) -> float:
    return (theirs - dt.datetime.now(dt.UTC)).total_seconds()


def clock(server: str, seconds: float) -> Finding:
    """Judge a server's clock by this machine's."""
    if abs(seconds) <= CLOCK_SECONDS:
        return ok(f"clock of {server}", f"{abs(seconds):.1f} s from this machine's")
    mend = "Let NTP (chrony, systemd-timesyncd) set both: what has expired is decided by Redis's clock."
    return weak(f"clock of {server}", f"{abs(seconds):.0f} s from this machine's", mend)
