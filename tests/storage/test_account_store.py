"""Accounts and keys, on SQLite and PostgreSQL."""

import asyncio
import hashlib
from collections.abc import Callable
from decimal import Decimal

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.storage.account_store import AccountStore, Quota
from tci.storage.tables import accounts as accounts_table
from tci.storage.tables import api_keys


async def test_new_key_authenticates_its_account(accounts: AccountStore) -> None:
    key = await accounts.create_key("ada")
    assert key.startswith("tci_")
    caller = await accounts.authenticate(key)
    assert caller is not None
    assert caller.account == "ada"


@pytest.mark.parametrize("change", [str.lower, str.upper, lambda key: key[:-1], lambda key: f"{key} "])
async def test_key_that_differs_is_nobody(accounts: AccountStore, change: Callable[[str], str]) -> None:
    key = await accounts.create_key("ada")
    assert await accounts.authenticate(change(key)) is None


@pytest.mark.parametrize("key", ["", "\x00", "'; DROP TABLE api_keys; --", "\udcff", "é" * 100_000, "%", "tci_%"])
async def test_nonsense_as_key_is_nobody(accounts: AccountStore, key: str) -> None:
    await accounts.create_key("ada")
    assert await accounts.authenticate(key) is None


async def test_revoked_key_is_nobody_and_others_go_on(accounts: AccountStore) -> None:
    first, second = await accounts.create_key("ada"), await accounts.create_key("ada")
    key_id = (await accounts.list_keys())[0].id
    assert await accounts.revoke_key(key_id)
    assert await accounts.authenticate(first) is None
    assert await accounts.authenticate(second) is not None
    assert not await accounts.revoke_key(key_id), "it was not valid any more"
    assert not await accounts.revoke_key(9999)


async def test_two_keys_of_a_name_are_one_account(accounts: AccountStore) -> None:
    callers = [await accounts.authenticate(await accounts.create_key(name)) for name in ("ada", "ada", "bob")]
    ids = [(caller.account_id, caller.key_id) for caller in callers if caller is not None]
    assert ids == [(1, 1), (1, 2), (2, 3)]


async def test_key_keeps_its_rights_and_takes_other_bounds(accounts: AccountStore) -> None:
    quota = Quota(1, 20, Decimal("9.990001"), 60)
    key = await accounts.create_key("ada", is_admin=True, quota=quota)
    caller = await accounts.authenticate(key)
    assert caller is not None
    assert (caller.is_admin, caller.quota) == (True, quota)
    assert caller.key_id is not None
    assert await accounts.set_quota(caller.key_id, Quota(max_sessions=3))
    assert [listed.quota for listed in await accounts.list_keys()] == [Quota(max_sessions=3)]
    assert not await accounts.set_quota(4711, Quota())


async def test_given_value_is_a_key_once(accounts: AccountStore) -> None:
    assert [await accounts.create_key("ada", value="a-key-of-my-own") for _ in range(3)] == ["a-key-of-my-own"] * 3
    assert len(await accounts.list_keys()) == 1
    assert await accounts.authenticate("a-key-of-my-own") is not None


async def test_given_value_that_was_revoked_stays_revoked(accounts: AccountStore) -> None:
    await accounts.create_key("ada", value="a-key-of-my-own")
    await accounts.revoke_key((await accounts.list_keys())[0].id)
    await accounts.create_key("ada", value="a-key-of-my-own")
    assert await accounts.authenticate("a-key-of-my-own") is None


async def test_keys_are_listed_oldest_first(accounts: AccountStore) -> None:
    made = [await accounts.create_key(name) for name in ("zoe", "ada", "mia")]
    listed = await accounts.list_keys()
    assert [key.account for key in listed] == ["zoe", "ada", "mia"]
    assert [key.prefix for key in listed] == [key[:8] for key in made]
    assert all(key.revoked_at is None and key.created_at.utcoffset() is not None for key in listed)


async def test_only_a_hash_of_a_key_is_stored(accounts: AccountStore, engine: AsyncEngine) -> None:
    key = await accounts.create_key("ada")
    async with engine.connect() as db:
        row = (await db.execute(select(api_keys))).one()
    assert row.digest == hashlib.sha256(key.encode()).hexdigest()
    assert key not in repr(tuple(row))


async def test_short_given_value_is_not_stored_readable(accounts: AccountStore, engine: AsyncEngine) -> None:
    """The first characters, which are kept, must not be most of the key."""
    await accounts.create_key("ada", value="hunter2")
    async with engine.connect() as db:
        row = (await db.execute(select(api_keys))).one()
    assert "hunter2" not in repr(tuple(row))


async def test_keys_made_at_once_for_a_new_account_share_it(accounts: AccountStore, engine: AsyncEngine) -> None:
    keys = await asyncio.gather(*(accounts.create_key("ada") for _ in range(8)))
    assert len(set(keys)) == 8
    async with engine.connect() as db:
        assert len((await db.execute(select(accounts_table.c.id))).all()) == 1


async def test_given_value_made_at_once_is_one_key(accounts: AccountStore) -> None:
    """Two replicas start with the same TCI_BOOTSTRAP_API_KEY."""
    await asyncio.gather(*(accounts.create_key("ada", value="a-key-of-my-own") for _ in range(8)))
    assert len(await accounts.list_keys()) == 1
