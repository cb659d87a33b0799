"""Builds the service: the lifespan opens every resource, makes every object, and closes them in reverse."""

from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp

from tci import tracing
from tci.api import (
    document,
    failure,
    file_routes,
    mcp_mount,
    metrics_routes,
    middleware,
    pages,
    routes,
    session_routes,
    trace,
)
from tci.egress.open import effective_policy, make_gates, run_proxy, runs_proxy
from tci.loops import Loops
from tci.paths import make_private, short_path
from tci.sandbox.choose import choose, open_driver
from tci.sandbox.keepers import Keepers
from tci.sessions.figures import Figures
from tci.sessions.files import SessionFiles
from tci.sessions.lifecycle import SessionLifecycle
from tci.sessions.opener import SessionOpener
from tci.sessions.outbox import Outbox
from tci.sessions.pool import WarmPool
from tci.sessions.reaper import Reaper
from tci.sessions.sandboxes import Sandboxes
from tci.sessions.service import SessionService
from tci.settings import Settings
from tci.storage.account_store import AccountStore
from tci.storage.database import open_database, require_current_schema
from tci.storage.interrupt_store import InterruptStore
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
    files: SessionFiles
    lifecycle: SessionLifecycle
    usage: UsageStore
    settings: Settings
    readiness: Readiness
    mcp: ASGIApp
    figures: Figures


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of the service, for the API and for the command line."""

    accounts: AccountStore
    store: SessionStore
    sessions: SessionService
    files: SessionFiles
    lifecycle: SessionLifecycle
    usage: UsageStore
    pool: WarmPool
    reaper: Reaper
    outbox: Outbox
    readiness: Readiness
    loops: Loops
    figures: Figures


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
        pool_store = PoolStore(redis, deployment=deployment)
        pool = WarmPool(
            settings=settings,
            sandboxes=sandboxes,
            store=pool_store,
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
        files = SessionFiles(
            service=service,
            driver=driver,
            connect=lambda session: sandboxes.connect(session.sandbox_id, session.kernel_key),
            disk_bytes=settings.sandbox_disk_bytes,
        )
        interrupts = InterruptStore(redis, deployment=deployment)
        lifecycle = SessionLifecycle(service=service, sessions=store, leases=leases, interrupts=interrupts)
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
        loops, usage = Loops(), UsageStore(engine)
        yield Parts(
            accounts=AccountStore(engine),
            store=store,
            sessions=service,
            files=files,
            lifecycle=lifecycle,
            usage=usage,
            pool=pool,
            reaper=reaper,
            outbox=outbox,
            readiness=Readiness(engine, redis, loops=loops, has_sandboxes=driver.answers),
            loops=loops,
            figures=Figures(settings=settings, sessions=store, usage=usage, pool=pool_store),
        )


def background(parts: Parts, settings: Settings) -> dict[str, Coroutine[Any, Any, None]]:
    """Return what goes on for ever beside the requests, by name; none of it may end before the service does."""
    loops = {
        "reap": parts.reaper.run_reap(),
        "reconcile": parts.reaper.run_reconcile(),
        "tend": parts.reaper.run_tend(),
        "turns": parts.sessions.turnstile.run(),
        "sweep": parts.sessions.run_sweep(),
        "interrupts": parts.lifecycle.run(),
        "outbox": parts.outbox.run(),
        "figures": parts.figures.run(),
    }
    if settings.pool_size:
        loops["pool"] = parts.pool.run()
    if runs_proxy(settings):
        loops["proxy"] = run_proxy(settings)
    return loops


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
        async with AsyncExitStack() as stack:
            stack.enter_context(tracing.open_tracing())
            parts = await stack.enter_async_context(open_parts(settings))
            await parts.reaper.tend()  # be right before being ready
            await parts.reaper.reconcile()
            parts.sessions.is_stopping = lambda: app.state.is_stopping
            # Not at the top: the SDK takes a second and 30 MB, which only what serves is to spend.
            from tci.mcp.file_tools import FileTools  # noqa: PLC0415
            from tci.mcp.server import open_mcp  # noqa: PLC0415
            from tci.mcp.session_tools import SessionTools  # noqa: PLC0415
            from tci.mcp.tools import Tools  # noqa: PLC0415

            tools = Tools([*SessionTools(parts.sessions).offered(), *FileTools(parts.files).offered()])
            async with (
                parts.loops.running(background(parts, settings)),
                open_mcp(tools, max_body_bytes=settings.max_body_bytes) as mcp,
            ):
                yield {
                    "accounts": parts.accounts,
                    "sessions": parts.sessions,
                    "files": parts.files,
                    "lifecycle": parts.lifecycle,
                    "usage": parts.usage,
                    "settings": settings,
                    "readiness": parts.readiness,
                    "mcp": mcp.handle_request,
                    "figures": parts.figures,
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
    app.include_router(metrics_routes.scraped, responses=document.FAILURES)
    for router in (routes.router, session_routes.router, file_routes.router, metrics_routes.router):
        app.include_router(router, responses=document.FAILURES)
        app.include_router(router, prefix="/v1", include_in_schema=False)
    app.router.routes.append(mcp_mount.route())
    document.install(app)
    if tracing.is_asked_for():
        app.add_middleware(trace.Trace)
    app.add_middleware(middleware.BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(middleware.OneSlash)
    app.add_middleware(middleware.RequestId)
    return app
