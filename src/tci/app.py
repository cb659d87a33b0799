"""Builds the service: the lifespan opens every resource, makes every object, and closes them in reverse."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import structlog
from fastapi import FastAPI

from tci.api import document, failure, middleware, pages, routes
from tci.egress.open import effective_policy, make_gates, run_proxy
from tci.paths import make_private, short_path
from tci.sandbox.choose import choose, open_driver
from tci.sandbox.keepers import Keepers
from tci.sessions.opener import SessionOpener
from tci.sessions.outbox import Outbox
from tci.sessions.pool import WarmPool
from tci.sessions.reaper import Reaper
from tci.sessions.sandboxes import Sandboxes
from tci.sessions.service import SessionService
from tci.settings import Settings
from tci.storage.account_store import AccountStore
from tci.storage.database import open_database, require_current_schema
from tci.storage.lease_store import LeaseStore
from tci.storage.pool_store import PoolStore
from tci.storage.readiness import Readiness
from tci.storage.redis_client import open_redis
from tci.storage.session_store import SessionStore
from tci.storage.turn_store import TurnStore
from tci.storage.usage_store import UsageStore

log = structlog.get_logger()


class State(TypedDict):
    """What the routes find on `request.state`."""

    accounts: AccountStore
    sessions: SessionService
    usage: UsageStore
    settings: Settings
    readiness: Readiness


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of the service, for the API and for the command line."""

    accounts: AccountStore
    store: SessionStore
    sessions: SessionService
    usage: UsageStore
    pool: WarmPool
    reaper: Reaper
    outbox: Outbox
    readiness: Readiness


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """Open every resource and build every object; raises SetupError where one is missing."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_database(settings))
        await require_current_schema(engine)
        store = SessionStore(engine)
        deployment = await store.deployment_id()
        redis = await stack.enter_async_context(open_redis(settings))
        leases = LeaseStore(redis, deployment=deployment)
        driver = await stack.enter_async_context(open_driver(settings, deployment=deployment))
        make_private(settings.run_dir)
        sockets = stack.enter_context(short_path(settings.run_dir))
        gates = make_gates(settings, sockets=sockets)
        stack.callback(gates.close_all)
        keepers = Keepers(settings.keepers_dir)
        stack.callback(keepers.close)
        policy = effective_policy(settings)
        sandboxes = Sandboxes(
            settings=settings,
            driver=driver,
            keepers=keepers,
            gates=gates,
            policy=policy,
            sockets=sockets,
            deployment=deployment,
        )
        pool = WarmPool(
            settings=settings,
            sandboxes=sandboxes,
            store=PoolStore(redis, deployment=deployment),
            leases=leases,
            policy=policy,
        )
        stack.callback(pool.close)
        opener = SessionOpener(settings=settings, sandboxes=sandboxes, pool=pool, sessions=store, leases=leases)
        outbox = Outbox()
        stack.push_async_callback(outbox.close)
        service = SessionService(
            settings=settings,
            driver=driver,
            sessions=store,
            leases=leases,
            turns=TurnStore(redis, deployment=deployment),
            sandboxes=sandboxes,
            opener=opener,
            outbox=outbox,
        )
        stack.callback(service.close)
        reaper = Reaper(
            settings=settings,
            driver=driver,
            service=service,
            sandboxes=sandboxes,
            pool=pool,
            keepers=keepers,
            sessions=store,
            leases=leases,
        )
        yield Parts(
            accounts=AccountStore(engine),
            store=store,
            sessions=service,
            usage=UsageStore(engine),
            pool=pool,
            reaper=reaper,
            outbox=outbox,
            readiness=Readiness(engine, redis),
        )


@asynccontextmanager
async def running(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run background loops for as long as the block lasts."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def create_app(settings: Settings, *, ends_sessions: bool = False) -> FastAPI:
    """Return the ASGI application; nothing is opened before its lifespan begins.

    `ends_sessions`: whether every session ends with it, and not only this process.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        choice, reason = await choose(settings)
        policy = effective_policy(settings)
        log.info("Starting", sandbox=choice.value, reason=reason, egress=policy.value)
        if policy is not settings.egress:
            log.warning("Squid is not installed: code reaches no network, not even the package index")
        async with open_parts(settings) as parts:
            await parts.reaper.tend()  # be right before being ready
            await parts.reaper.reconcile()
            parts.sessions.is_stopping = lambda: app.state.is_stopping
            loops = (
                parts.reaper.run_reap(),
                parts.reaper.run_reconcile(),
                parts.reaper.run_tend(),
                parts.sessions.turnstile.run(),
                parts.sessions.run_sweep(),
                parts.outbox.run(),
                parts.pool.run(),
                run_proxy(settings),
            )
            async with running(*loops):
                yield {
                    "accounts": parts.accounts,
                    "sessions": parts.sessions,
                    "usage": parts.usage,
                    "settings": settings,
                    "readiness": parts.readiness,
                }
                await parts.sessions.settle()
            if ends_sessions:
                await parts.reaper.end_all()
            await parts.reaper.let_go()
            app.state.is_clean = True

    app = FastAPI(
        title="tci",
        summary="A self-hosted server for the Code Interpreter API.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.is_clean = app.state.is_stopping = False
    failure.install(app)
    app.include_router(routes.health)
    app.include_router(pages.router)
    app.include_router(routes.router, responses=document.FAILURES)
    app.include_router(routes.router, prefix="/v1", include_in_schema=False)
    document.install(app)
    app.add_middleware(middleware.BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(middleware.OneSlash)
    app.add_middleware(middleware.RequestId)
    return app
