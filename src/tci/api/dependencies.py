"""What the routes are given: the caller, and the objects that the lifespan built."""

from typing import Annotated

from fastapi import Depends, Request

from tci.errors import AdminRequired, InvalidApiKey
from tci.log import about
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


CallerDep = Annotated[Caller, Depends(authenticate)]
AdminDep = Annotated[Caller, Depends(administrator)]
ServiceDep = Annotated[SessionService, Depends(session_service)]
UsageDep = Annotated[UsageStore, Depends(usage_store)]
