"""A real browser. Whatever a page asks for is written down, and must have been asked of the service."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from tests.conftest import Service, missing

CHROMIUM = "/usr/bin/chromium"
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)

OpenPage = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if shutil.which(CHROMIUM) is None:
        missing("Chromium is not installed")
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield opened
        await opened.close()


@pytest.fixture
async def open_page(browser: Browser, live_service: Service) -> AsyncIterator[OpenPage]:
    """Open pages of the service, each in a context of its own; afterwards look at what they asked for and reported."""
    contexts = []
    asked: list[str] = []
    bugs: list[str] = []

    async def open_page(
        path: str, *, prepare: Callable[[Page], Awaitable[None]] | None = None, **options: object
    ) -> Page:
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: asked.append(request.url))
        # Chromium tells also of what the policy stopped before it was sent.
        page.on("requestfailed", lambda request: asked.remove(request.url) if is_stopped(request) else None)
        page.on("pageerror", lambda error: bugs.append(str(error)))
        if prepare:
            await prepare(page)
        await page.goto(live_service.url + path)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    own = urlsplit(live_service.url).netloc
    elsewhere = [
        url for url in asked if urlsplit(url).scheme in {"http", "https", "ws"} and urlsplit(url).netloc != own
    ]
    assert elsewhere == []
    assert [url for url in asked if live_service.key in url] == [], "a key in a URL ends in logs"
    assert bugs == []


@pytest.fixture
async def free_page(browser: Browser) -> AsyncIterator[Page]:
    """A page that may ask whom it likes and fail as it likes, for attacks that do."""
    # Without this permission Chromium itself would keep a page that a test has changed from the thief.
    context = await browser.new_context(permissions=["local-network-access"])
    yield await context.new_page()
    await context.close()


def is_stopped(request: Request) -> bool:
    """Whether the browser's policy kept a request from being sent."""
    return "csp" in (request.failure or "").lower()


def answering(*outputs: dict[str, Any]) -> Callable[[Page], Awaitable[None]]:
    """Make a page's runs be answered with outputs that no sandbox has made."""
    data = {"session_id": "ses_x", "outputs": outputs, "execution": {"verdict": "ok"}}

    async def prepare(page: Page) -> None:
        await page.route("**/tci/execute", lambda route: route.fulfill(json={"data": data, "errors": None}))

    return prepare


async def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
