"""The playground, as a visitor with a real browser uses it."""

import re

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from tests.conftest import Service
from tests.web.conftest import OpenPage, answering, overflow

PLAYGROUND = "/"


async def use(page: Page, service: Service) -> None:
    await page.get_by_label("API key").fill(service.key)


async def run(page: Page, code: str) -> None:
    await page.evaluate("code => document.querySelector('.CodeMirror').CodeMirror.setValue(code)", code)
    await page.get_by_role("button", name=re.compile("^Run")).click()
    await expect(page.locator("#verdict")).to_be_visible()


@pytest.fixture
async def page(open_page: OpenPage, live_service: Service) -> Page:
    opened = await open_page(PLAYGROUND)
    await use(opened, live_service)
    return opened


@pytest.mark.parametrize("path", ["/", "/dashboard", "/static/playground.js", "/static/vendor/uplot/uPlot.iife.min.js"])
def test_file_of_the_pages_has_policy_and_is_kept_by_its_etag(live_service: Service, path: str) -> None:
    answer = httpx.get(live_service.url + path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(live_service.url + path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.head(live_service.url + path).status_code == 200


@pytest.mark.parametrize("path", ["/static/", "/static/nothing.js", "/static/%2e%2e/app.py", "/static/../app.py"])
def test_other_path_below_static_is_not_found(live_service: Service, path: str) -> None:
    answer = httpx.get(live_service.url + path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_first_visit_with_key_plots_the_example(page: Page) -> None:
    await page.get_by_role("button", name=re.compile("^Run")).click()
    image = page.locator("#outputs img")
    await expect(image).to_be_visible()
    assert await image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    await expect(page.locator("#verdict")).to_contain_text("Done")
    await expect(page.locator("#clock")).to_have_text(re.compile(r"^(1:00:00|\d\d:\d\d) left$"))


async def test_program_shows_text_table_image_and_error_and_keeps_its_session(page: Page) -> None:
    await run(
        page,
        "import sys, pandas\nfrom IPython.display import SVG, display\nx = 41\n"
        "print('<b>plain</b>'); print('careful', file=sys.stderr)\n"
        'display(SVG(\'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\'))\n'
        "pandas.DataFrame({'city': ['Oslo']})",
    )
    await expect(page.locator("#outputs .stdout")).to_have_text("<b>plain</b>\n")
    await expect(page.locator("#outputs .stderr")).to_have_text("careful\n")
    await expect(page.locator("#outputs img[src^='data:image/svg+xml']")).to_be_visible()
    await expect(page.frame_locator("#outputs iframe").get_by_role("cell", name="Oslo")).to_be_visible()
    session = await page.locator("#session").text_content()
    await run(page, "print(x + 1); 1 / 0")
    await expect(page.locator("#outputs .stdout")).to_have_text("42\n")
    await expect(page.locator("#outputs .error")).to_contain_text("ZeroDivisionError")
    await expect(page.locator("#verdict")).to_contain_text("raised an error")
    assert await page.locator("#session").text_content() == session


async def test_keys_alone_run_and_leave_the_editor(page: Page) -> None:
    await answering({"type": "stdout", "data": "an answer"})(page)
    await page.locator(".CodeMirror-code").focus()
    await page.keyboard.press("Control+a")
    await page.keyboard.type("print('by keyboard')")
    async with page.expect_request("**/tci/execute") as asked:
        await page.keyboard.press("Control+Enter")
    assert (await asked.value).post_data_json["code"] == "print('by keyboard')"
    await expect(page.locator("#outputs .stdout")).to_have_text("an answer")
    await page.locator(".CodeMirror-code").focus()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name=re.compile("^Run"))).to_be_focused()


async def test_chosen_file_goes_with_the_next_run_only(page: Page) -> None:
    await page.locator("#upload").set_input_files(
        {"name": "a b.txt", "mimeType": "text/plain", "buffer": b"of the visitor"}
    )
    await expect(page.locator("#pending")).to_contain_text("a b.txt")
    await run(page, "print(open('a b.txt').read())")
    await expect(page.locator("#outputs .stdout")).to_have_text("of the visitor\n")
    await expect(page.locator("#pending li")).to_have_count(0)


async def test_wrong_key_and_no_key_are_told_and_key_is_focused(open_page: OpenPage) -> None:
    page = await open_page(PLAYGROUND)
    for key, sentence in (
        ("", "Paste an API key first"),
        ("tci_wrong", "does not know this key"),
        ("ключ", "not a key"),
    ):
        await page.get_by_label("API key").fill(key)
        await page.get_by_role("button", name=re.compile("^Run")).click()
        await expect(page.locator("#notice")).to_contain_text(sentence)
        await expect(page.get_by_label("API key")).to_be_focused()


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (429, "quota_exceeded", "A limit of this key is reached: the <b>reason Try again in 7 s."),
        (503, "no_capacity", "The server is full. Try again in 7 s."),
        (500, "internal_error", "The server failed, not your program; nothing is billed. (the <b>reason)"),
        (404, "session_not_found", "the <b>reason The next run opens a new session."),
        (0, "", "The server does not answer. Check that it runs, then try again."),
    ],
)
async def test_failure_is_told_in_one_sentence(page: Page, status: int, code: str, sentence: str) -> None:
    async def fail(route: Route) -> None:
        if not status:
            await route.abort()
            return
        body = {"error": {"message": "the <b>reason", "type": "t", "param": None, "code": code}}
        await route.fulfill(status=status, json=body, headers={"retry-after": "7"})

    await page.route("**/tci/execute", fail)
    await page.get_by_role("button", name=re.compile("^Run")).click()
    await expect(page.locator("#notice")).to_have_text(sentence)


async def test_answer_as_events_is_shown_as_it_comes(page: Page) -> None:
    async def stream(route: Route) -> None:
        body = (
            'event: session\ndata: {"session_id": "ses_x", "expires_at": "2099-01-01T00:00:00Z"}\n\n: heartbeat\n\n'
            'event: output\ndata: {"type": "stdout", "data": "a"}\n\n'
            'event: output\ndata: {"type": "stdout", "data": "b"}\n\n'
            'event: execution\ndata: {"verdict": "ok", "duration_ms": 5, "status": "completed"}\n\n'
        )
        await route.fulfill(status=200, content_type="text/event-stream", body=body)

    await page.route("**/tci/execute", stream)
    await page.get_by_role("button", name=re.compile("^Run")).click()
    await expect(page.locator("#verdict")).to_have_text("Done · 5 ms")
    await expect(page.locator("#outputs .stdout")).to_have_text("ab")
    await expect(page.locator("#session")).to_have_text("ses_x")


async def test_files_of_the_session_are_listed_and_downloaded(page: Page) -> None:
    async def files(route: Route) -> None:
        if route.request.url.endswith("/files"):
            names = ("out/ä #1.csv", "<img src=x onerror=alert(1)>.txt")
            listed = [
                {"name": name, "size": 2048, "modified_at": "2026-01-01T00:00:00Z", "type": "file"} for name in names
            ]
            await route.fulfill(json={"data": {"files": listed, "is_complete": True}, "errors": None})
        else:
            assert route.request.url.endswith("/files/out/%C3%A4%20%231.csv")
            await route.fulfill(body=b"1,2\n", content_type="text/csv")

    await answering()(page)
    await page.route("**/tci/sessions/*/files**", files)
    await run(page, "pass")
    await expect(page.locator("#files li").first).to_contain_text("2.0 KB")
    await expect(page.locator("#files li").last).to_contain_text("<img src=x onerror=alert(1)>.txt")
    async with page.expect_download() as started:
        await page.get_by_role("button", name="Download out/ä #1.csv").click()
    download = await started.value
    assert (await download.path()).read_bytes() == b"1,2\n"
    assert download.suggested_filename == "ä #1.csv"


async def test_snippets_hold_the_program_and_never_the_key(page: Page, live_service: Service) -> None:
    snippet = page.locator("#snippet")
    await page.evaluate("document.querySelector('.CodeMirror').CodeMirror.setValue(\"print('it\\\\'s')\")")
    for language, part in (("curl", "/tci/execute"), ("Python", "from together import"), ("TypeScript", "together-ai")):
        await page.get_by_role("button", name=language, exact=True).click()
        await expect(snippet).to_contain_text(part)
        await expect(snippet).to_contain_text("print(")
        assert live_service.key not in (await snippet.text_content() or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_fits_a_phone_in_both_themes(open_page: OpenPage, live_service: Service, scheme: str) -> None:
    wide = {"text/html": f"<table><tr>{'<td>1</td>' * 40}</table>"}
    answer = answering({"type": "stdout", "data": "x" * 500}, {"type": "execute_result", "data": wide})
    page = await open_page(PLAYGROUND, prepare=answer, color_scheme=scheme, viewport={"width": 390, "height": 844})
    await use(page, live_service)
    await run(page, "pass")
    await expect(page.locator("#outputs iframe")).to_be_visible()
    assert await overflow(page) == 0
    background = "getComputedStyle(document.documentElement).backgroundColor"
    before = await page.evaluate(background)
    assert before == ("rgb(245, 246, 249)" if scheme == "light" else "rgb(16, 20, 27)")
    await page.get_by_role("button", name=re.compile("Switch to the")).click()
    assert await page.evaluate(background) != before
