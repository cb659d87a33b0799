"""The operators' page in a real browser; the overview is a stub's, so that its numbers are known."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests.conftest import Service
from tests.web.conftest import OpenPage, overflow


def session(name: str, account: str) -> dict[str, Any]:
    moment = "2099-01-01T00:00:00.000000Z"
    times = {"started_at": moment, "last_execute_at": moment, "expires_at": moment}
    return {"id": f"ses_{name}", "account": account, "execute_count": 3, "metadata": {"<i>": "<u>job</u>"}, **times}


class Stub:
    """What the service would answer; each look at the overview is two seconds and ten executions later."""

    def __init__(self) -> None:
        self.looks = 0
        self.sessions = [session("one", "lab"), session("two", "<img src=x onerror=alert(1)>")]
        self.ended: list[str] = []
        self.status = 200

    async def __call__(self, route: Route) -> None:
        if self.status != 200:
            failure = {"message": "<b>the</b> reason", "type": "t", "param": None, "code": "forbidden"}
            await route.fulfill(status=self.status, json={"error": failure})
        elif route.request.method == "DELETE":
            self.ended.append(route.request.url.rsplit("/", 1)[1])
            self.sessions = [kept for kept in self.sessions if kept["id"] not in self.ended]
            await route.fulfill(json={"data": {"session_id": self.ended[-1], "ended": True}, "errors": None})
        elif route.request.url.endswith("/tci/overview"):
            await route.fulfill(json={"data": self.overview(), "errors": None})
        else:
            await route.fulfill(json={"data": {"sessions": self.sessions}, "errors": None})

    def overview(self) -> dict[str, Any]:
        self.looks += 1
        minutes, seconds = divmod(self.looks * 2, 60)
        return {
            "now": f"2026-11-27T12:{minutes:02}:{seconds:02}.000000Z",
            "sessions": {"live": len(self.sessions), "capacity": 100},
            "pool": {"level": 4, "target": 5, "hits": 30, "misses": 2, "filled": 35, "failed": 1},
            "executions": {"total": {"ok": 1000 + 8 * self.looks, "error": 2 * self.looks, "oom": 0}, "failed": 0},
            "latency_ms": {"p50": 41.6, "p95": 260.0, "p99": 1900.0},
            "spend": [
                {"account": "lab", "sessions": 4, "amount_usd": "0.12"},
                {"account": "<b>shop</b>", "sessions": 100, "amount_usd": "3.00"},
            ],
            "refusals": {"quota": 6, "egress": 1},
        }


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def open_dashboard(open_page: OpenPage, stub: Stub) -> Callable[..., Any]:
    async def open_dashboard(**options: object) -> Page:
        async def prepare(page: Page) -> None:
            await page.route(re.compile("/tci/"), stub)

        page = await open_page("/dashboard", prepare=prepare, **options)
        await page.get_by_label("Admin key").fill("tci_admin")
        await page.keyboard.press("Enter")
        return page

    return open_dashboard


async def test_overview_is_shown_and_moves(open_dashboard: Callable[..., Any], stub: Stub) -> None:
    page = await open_dashboard()
    await expect(page.locator("#alive")).to_have_text("2")
    await expect(page.locator("#left")).to_have_text("98 of 100 places left")
    await expect(page.locator("#rate")).to_have_text("300")
    await expect(page.locator("#median")).to_have_text("42 ms")
    await expect(page.locator("#level")).to_have_text("4 / 5")
    await expect(page.locator("#spent")).to_have_text("$3.12")
    await expect(page.locator("#refused")).to_have_text("7")
    await expect(page.locator("#spend tr")).to_have_text(["<b>shop</b>100$3.00", "lab4$0.12"])
    await expect(page.locator("#verdicts tr").first).to_contain_text("ok")
    await expect(page.locator("#sessions .chips").first).to_have_text("<i>: <u>job</u>")
    await expect(page.locator("#sessions tr").nth(1)).to_contain_text("<img src=x onerror=alert(1)>")
    assert await page.locator(".charts canvas").count() == 3
    before = stub.looks
    await expect(page.locator("#total")).to_contain_text(f"{1000 + 10 * (before + 1):,} in all")


async def test_session_is_ended_after_a_confirmation(open_dashboard: Callable[..., Any], stub: Stub) -> None:
    page = await open_dashboard()
    await page.get_by_role("button", name="End session ses_one").click()
    await page.get_by_role("button", name="Keep it").click()
    await expect(page.locator("#confirm")).to_be_hidden()
    assert stub.ended == []
    await page.get_by_role("button", name="End session ses_one").click()
    await expect(page.locator("#doomed")).to_have_text("ses_one")
    await page.get_by_role("dialog").get_by_role("button", name="End session").click()
    await expect(page.locator("#sessions tr")).to_have_count(1)
    assert stub.ended == ["ses_one"]


async def test_failures_are_told_and_passed(open_dashboard: Callable[..., Any], stub: Stub) -> None:
    stub.status = 401
    page = await open_dashboard()
    notice = page.locator("#notice")
    await expect(notice).to_contain_text("does not know this key")
    stub.status = 403
    await expect(notice).to_contain_text("not an admin key")
    stub.status = 500
    await expect(notice).to_have_text("The server failed, not your program; nothing is billed. (<b>the</b> reason)")
    stub.status, stub.sessions = 200, []
    await expect(notice).to_be_hidden()
    await expect(page.locator("#none")).to_have_text("No session is alive.")


async def test_real_service_shows_its_sessions(open_page: OpenPage, live_service: Service) -> None:
    session_id = live_service.run("1")["session_id"]
    page = await open_page("/dashboard")
    await expect(page.locator("#notice")).to_contain_text("Paste an admin key")
    await page.get_by_label("Admin key").fill(live_service.key)
    await page.keyboard.press("Enter")
    await expect(page.locator("#sessions")).to_contain_text(session_id)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_fits_a_phone_in_both_themes(open_dashboard: Callable[..., Any], scheme: str) -> None:
    page = await open_dashboard(color_scheme=scheme, viewport={"width": 390, "height": 844})
    await expect(page.locator("#alive")).to_have_text("2")
    assert await overflow(page) == 0
    await page.get_by_role("button", name=re.compile("Switch to the")).click()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark" if scheme == "light" else "light")
    assert await overflow(page) == 0
