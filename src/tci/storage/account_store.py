"""Accounts and their API keys, of which only a hash is kept."""

import datetime as dt
import hashlib
import hmac
from dataclasses import asdict, dataclass, fields
from decimal import Decimal

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tci.ids import new_api_key
from tci.settings import EgressPolicy
from tci.storage.database import reading, writing
from tci.storage.tables import accounts, api_keys

PREFIX_LENGTH = 8
"""Characters of a key that are kept readable, so that its owner can tell keys apart."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a key may use; None: no bound of its own."""

    max_sessions: int | None = None
    """Live at once."""
    max_sessions_per_day: int | None = None
    """Days and months are those of UTC."""
    max_spend_per_month_usd: Decimal | None = None
    max_executions_per_minute: int | None = None


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated account of a request."""

    account_id: int
    account: str
    egress: EgressPolicy | None = None
    """What the key lets its sessions reach at most; None: what the service allows."""
    key_id: int | None = None
    is_admin: bool = False
    """Whether the key may look at every account."""
    quota: Quota = NO_QUOTA


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key after it was made; never the key itself."""

    id: int
    account: str
    prefix: str
    created_at: dt.datetime
    revoked_at: dt.datetime | None
    egress: str | None
    is_admin: bool = False
    quota: Quota = NO_QUOTA


class AccountStore:
    """Reads and writes accounts and keys."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def authenticate(self, key: str) -> Caller | None:
        """Return the account of a valid key, or None.

        The look-up is by SHA-256 digest, so its timing tells nothing about any key: whoever can choose a
        digest's beginning has broken SHA-256. Keys are random, so a slow password hash would add nothing.
        """
        digest = _digest(key)
        query = (
            select(api_keys, accounts.c.name)
            .join(accounts, accounts.c.id == api_keys.c.account_id)
            .where(api_keys.c.digest == digest, api_keys.c.revoked_at.is_(None))
        )
        async with reading(self._engine) as db:
            row = (await db.execute(query)).first()
        if row is None or not hmac.compare_digest(row.digest, digest):
            return None
        return Caller(
            account_id=row.account_id,
            account=row.name,
            egress=None if row.egress is None else EgressPolicy(row.egress),
            key_id=row.id,
            is_admin=row.is_admin,
            quota=_quota(row),
        )

    async def find(self, account: str) -> int | None:
        """Return the id of an account, or None."""
        if "\0" in account:  # which PostgreSQL refuses, and no name has
            return None
        async with reading(self._engine) as db:
            found: int | None = await db.scalar(select(accounts.c.id).where(accounts.c.name == account))
        return found

    async def create_key(
        self,
        account: str,
        *,
        value: str | None = None,
        egress: EgressPolicy | None = None,
        is_admin: bool = False,
        quota: Quota = NO_QUOTA,
    ) -> str:
        """Make a key for the account, which is made too if it is new, and return the key.

        A given value that is a key already is left as it is, revoked or not.
        """
        key = value or new_api_key()
        rights: dict[str, object] = {"egress": egress, "is_admin": is_admin, **asdict(quota)}
        try:
            return await self._create_key(account, key, rights)
        except IntegrityError:  # another process has just made the account, or this very key
            return await self._create_key(account, key, rights)

    async def _create_key(self, account: str, key: str, rights: dict[str, object]) -> str:
        now = dt.datetime.now(dt.UTC)
        async with writing(self._engine) as db:
            if (await db.execute(select(api_keys.c.id).where(api_keys.c.digest == _digest(key)))).first():
                return key
            account_id = await _account_id(db, account, now)
            row = {
                "account_id": account_id,
                "prefix": key[: min(PREFIX_LENGTH, len(key) // 4)],
                "digest": _digest(key),
                "created_at": now,
                **rights,
            }
            await db.execute(insert(api_keys).values(row))
        return key

    async def list_keys(self) -> list[ApiKey]:
        """Return every key, oldest first."""
        query = (
            select(api_keys, accounts.c.name)
            .join(accounts, accounts.c.id == api_keys.c.account_id)
            .order_by(api_keys.c.id)
        )
        async with reading(self._engine) as db:
            return [_api_key(row) for row in await db.execute(query)]

    async def set_quota(self, key_id: int, quota: Quota) -> bool:
        """Give a key other bounds; return whether there is such a key."""
        change = update(api_keys).where(api_keys.c.id == key_id).values(asdict(quota))
        async with writing(self._engine) as db:
            return (await db.execute(change)).rowcount == 1

    async def revoke_key(self, key_id: int) -> bool:
        """Revoke a key; return whether it was valid until now."""
        change = update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        async with writing(self._engine) as db:
            result = await db.execute(change.values(revoked_at=dt.datetime.now(dt.UTC)))
        return result.rowcount == 1


def _quota(row: Row[tuple[object, ...]]) -> Quota:
    columns = row._mapping  # noqa: SLF001 (the documented way to a row's columns by name)
    return Quota(**{field.name: columns[field.name] for field in fields(Quota)})


def _api_key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(
        id=row.id,
        account=row.name,
        prefix=row.prefix,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        egress=row.egress,
        is_admin=row.is_admin,
        quota=_quota(row),
    )


async def _account_id(db: AsyncConnection, name: str, now: dt.datetime) -> int:
    found: int | None = await db.scalar(select(accounts.c.id).where(accounts.c.name == name))
    if found is not None:
        return found
    made = await db.execute(insert(accounts).values(name=name, created_at=now).returning(accounts.c.id))
    return int(made.scalar_one())


def _digest(key: str) -> str:
    # surrogateescape: a key is whatever bytes a header held, and none of them may crash the look-up.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
