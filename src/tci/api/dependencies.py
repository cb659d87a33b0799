"""What the routes are given: the caller, and the objects that the lifespan built."""

from typing import Annotated

from fastapi import Depends, Request

from tci.errors import AccountNotFound, AdminRequired, InvalidApiKey
from tci.log import about
from tci.sessions.files import SessionFiles
from tci.sessions.lifecycle import SessionLifecycle
from tci.sessions.service import SessionService
from tci.storage.account_store import AccountStore, Caller
from tci.storage.usage_store import UsageStore


async def authenticate(request: Request) -> Caller:
    """Return the account of the request's key; raises InvalidApiKey."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    accounts: AccountStore = request.state.accounts
    caller = await accounts.authenticate(key.strip()) if scheme.lower() == "bearer" and key.strip() else None
    if caller is None:
        raise InvalidApiKey
    about(account=caller.account)
    return caller


async def administrator(caller: "CallerDep") -> Caller:
    """Return a caller who may look at the whole service; raises AdminRequired."""
    if not caller.is_admin:
        raise AdminRequired
    return caller


# Dependencies are coroutines also where they await nothing: FastAPI runs plain functions in a thread.


async def session_service(request: Request) -> SessionService:
    """Return the service that the lifespan built."""
    service: SessionService = request.state.sessions
    return service


async def usage_store(request: Request) -> UsageStore:
    """Return the store that the lifespan built."""
    store: UsageStore = request.state.usage
    return store


async def session_files(request: Request) -> SessionFiles:
    """Return the files that the lifespan built."""
    files: SessionFiles = request.state.files
    return files


async def session_lifecycle(request: Request) -> SessionLifecycle:
    """Return what the lifespan built."""
    lifecycle: SessionLifecycle = request.state.lifecycle
    return lifecycle


async def seen_account(request: Request, caller: Caller, account: str | None) -> int | None:
    """Return the id of the account that is asked for, None for all; raises AccountNotFound.

    `account` is its name; None: all that the caller may see.
    """
    if not caller.is_admin:
        if account not in {None, caller.account}:
            raise AccountNotFound(account or "")
        return caller.account_id
    if account is None:
        return None
    accounts: AccountStore = request.state.accounts
    found = await accounts.find(account)
    if found is None:
        raise AccountNotFound(account)
    return found


CallerDep = Annotated[Caller, Depends(authenticate)]
AdminDep = Annotated[Caller, Depends(administrator)]
ServiceDep = Annotated[SessionService, Depends(session_service)]
LifecycleDep = Annotated[SessionLifecycle, Depends(session_lifecycle)]
UsageDep = Annotated[UsageStore, Depends(usage_store)]
FilesDep = Annotated[SessionFiles, Depends(session_files)]
