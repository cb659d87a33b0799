"""The tools, by the official SDK's client, on a real service."""

import asyncio
import base64
import signal
from collections.abc import Callable
from typing import Any

import pytest
from mcp import Client, MCPError

from tests.conftest import Service, file_of
from tests.mcp.conftest import connected, images, texts

PLOT = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"


async def run(client: Client, code: str, **arguments: Any) -> tuple[list[str], dict[str, Any]]:
    """Run code that must not raise; return what it showed and the data."""
    result = await client.call_tool("run_code", {"code": code, **arguments})
    assert not result.is_error, texts(result)
    data: dict[str, Any] = result.structured_content
    *shown, last = texts(result)
    assert last == f"[session {data['session_id']}, verdict ok]"
    return shown, data


async def test_client_agrees_and_lists_tools_with_schemas(live_service: Service, mode: str) -> None:
    async with connected(live_service, mode=mode) as client:
        assert client.server_info is not None
        assert client.server_info.name == "tci"
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools.keys() == {
        "run_code",
        "list_sessions",
        "end_session",
        "list_files",
        "read_file",
        "write_file",
    }
    assert tools["run_code"].input_schema["required"] == ["code"]
    assert {"session_id", "files", "timeout"} < tools["run_code"].input_schema["properties"].keys()
    for tool in tools.values():
        assert tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"


async def test_code_runs_and_its_session_goes_on(service: Service, mode: str) -> None:
    async with connected(service, mode=mode) as client:
        shown, first = await run(client, "x = 41\nprint('out')\nx")
        assert shown == ["out\n", "41"]
        assert (first["verdict"], first["execute_count"]) == ("ok", 1)
        assert [output["type"] for output in first["outputs"]] == ["stdout", "execute_result"]
        shown, second = await run(client, "x + 1", session_id=first["session_id"])
        assert shown == ["42"]
        assert (second["session_id"], second["execute_count"]) == (first["session_id"], 2)


async def test_plot_is_an_image(live_service: Service, mode: str) -> None:
    async with connected(live_service, mode=mode) as client:
        result = await client.call_tool("run_code", {"code": PLOT})
    [image] = images(result)
    assert image.mime_type == "image/png"
    assert base64.b64decode(image.data).startswith(b"\x89PNG")
    [output] = result.structured_content["outputs"]
    assert output["type"] == "display_data"
    assert "image/png" in output["mime_types"]


async def test_flood_is_cut_to_what_a_client_takes(live_service: Service, mode: str) -> None:
    code = "print('\\x07' * 10**6, '\U0001f600' * 10**6)\nfor n in range(2000): display(n)\n1 / 0"
    async with connected(live_service, mode=mode) as client:
        result = await client.call_tool("run_code", {"code": code})
    assert result.is_error
    first, *numbers, error, last = texts(result)
    assert "characters left out ...]" in first
    assert numbers[-1] == "1999"
    assert "ZeroDivisionError" in error
    assert last.startswith("[1002 outputs in the middle left out]\n[session ses_")


async def test_image_that_is_too_large_is_told_of(live_service: Service, mode: str) -> None:
    code = "import os; from IPython.display import Image; display(Image(data=os.urandom(10**6), format='png'))"
    async with connected(live_service, mode=mode) as client:
        result = await client.call_tool("run_code", {"code": code})
    assert images(result) == []
    assert texts(result)[0] == "[image/png, 1000000 bytes: too large to be shown here]"


async def test_files_are_written_before_the_code_runs(live_service: Service) -> None:
    files = [{"name": "dir/text.txt", "content": "text"}, file_of("bytes.bin", b"\xff\0")]
    async with connected(live_service) as client:
        shown, _ = await run(client, "print(open('dir/text.txt').read(), open('bytes.bin', 'rb').read())", files=files)
    assert shown == ["text b'\\xff\\x00'\n"]


@pytest.mark.parametrize(
    ("code", "verdict", "says"),
    [("1 / 0", "error", "ZeroDivisionError: division by zero"), ("while True: pass", "timeout", "1 second")],
)
async def test_code_that_fails_is_an_error_of_the_tool(
    live_service: Service, mode: str, code: str, verdict: str, says: str
) -> None:
    async with connected(live_service, mode=mode) as client:
        result = await client.call_tool("run_code", {"code": code, "timeout": 1})
    assert result.is_error
    assert says in "".join(texts(result))
    assert result.structured_content["verdict"] == verdict


async def test_session_is_listed_and_ended(live_service: Service) -> None:
    async with connected(live_service) as client:
        _, data = await run(client, "")
        session_id = data["session_id"]
        listed = (await client.call_tool("list_sessions")).structured_content["sessions"]
        assert session_id in [session["id"] for session in listed]
        ended = await client.call_tool("end_session", {"session_id": session_id})
        assert ended.structured_content == {"session_id": session_id, "ended": True}
        assert live_service.post({"code": "", "session_id": session_id}).status_code == 404


@pytest.mark.parametrize(("tool", "arguments"), [("run_code", {"code": "1"}), ("end_session", {})])
async def test_session_of_another_account_is_not_found(
    live_service: Service, tool: str, arguments: dict[str, Any]
) -> None:
    session_id = live_service.run("secret = 1")["session_id"]
    async with connected(live_service, key=live_service.new_key("another")) as client:
        answers = [
            texts(await client.call_tool(tool, {**arguments, "session_id": given}))[0].replace(given, "ID")
            for given in (session_id, "ses_" + "1" * 21)
        ]
        listed = await client.call_tool("list_sessions")
    assert answers[0] == answers[1]
    assert answers[0].startswith("session_not_found: ")
    assert listed.structured_content == {"sessions": []}
    assert live_service.stdout("print(secret)", session_id) == "1\n"


@pytest.mark.parametrize(
    ("tool", "arguments", "param"),
    [
        ("run_code", {}, "code"),
        ("run_code", {"code": "1", "timeout": -1}, "timeout"),
        ("run_code", {"code": "1", "timeout": 1e6}, "timeout"),
        ("run_code", {"code": "1", "sesion_id": "x"}, "sesion_id"),
        ("run_code", {"code": "1", "files": [{"name": "../x", "content": ""}]}, "files.0.name"),
        ("run_code", {"code": "1", "files": [{"name": "x", "content": "?", "encoding": "base64"}]}, "files.0"),
    ],
)
async def test_wrong_arguments_are_an_error_that_names_them(
    live_service: Service, tool: str, arguments: dict[str, Any], param: str
) -> None:
    async with connected(live_service) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert texts(result)[0].startswith(f"invalid_request: {param}: ")


async def test_quota_that_is_reached_is_an_error_that_names_it(live_service: Service, mode: str) -> None:
    created = live_service.tci("keys", "create", "--account", f"one {mode}", "--max-sessions", "1")
    async with connected(live_service, key=created.stdout.strip(), mode=mode) as client:
        await run(client, "")
        result = await client.call_tool("run_code", {"code": "1"})
    assert result.is_error
    assert texts(result)[0].startswith("quota_exceeded: ")
    assert "sessions at once: 1" in texts(result)[0]
    assert result.structured_content["failure"]["retry_after"] > 0


async def test_failure_of_the_service_is_an_error_of_the_protocol(start_service: Callable[..., Service]) -> None:
    service = start_service(launch_timeout_seconds=0.01)
    for mode in ("legacy", "auto"):
        async with connected(service, mode=mode) as client:
            with pytest.raises(MCPError) as raised:
                await client.call_tool("run_code", {"code": "1"})
        assert raised.value.message.startswith("The service failed (sandbox_timeout): ")
        assert raised.value.data["code"] == "sandbox_timeout"


async def test_unknown_tool_is_an_error_of_the_protocol(live_service: Service, mode: str) -> None:
    async with connected(live_service, mode=mode) as client:
        with pytest.raises(MCPError, match="no tool nonsense"):
            await client.call_tool("nonsense", {})


async def begun(service: Service, session_id: str) -> None:
    """Wait until a second execution of a session runs: it is counted as it begins."""
    for _ in range(600):
        listed = service.client.get("/tci/sessions").json()["data"]["sessions"]
        if {"id": session_id, "execute_count": 2}.items() <= next(s for s in listed if s["id"] == session_id).items():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it did not begin")


async def begin_and_leave(service: Service, mode: str, code: str) -> str:
    """Begin code in a session, go away while it runs, and return the session's id."""
    session_id: str = service.run("import time")["session_id"]

    async def call() -> None:
        async with connected(service, mode=mode) as client:
            await client.call_tool("run_code", {"code": code, "session_id": session_id})

    left = asyncio.create_task(call())
    await begun(service, session_id)
    await asyncio.sleep(0.5)
    left.cancel()
    await asyncio.wait({left})
    return session_id


async def test_client_that_leaves_interrupts_its_code(live_service: Service, mode: str) -> None:
    code = "is_over = False\ntry:\n    while True: time.sleep(0.01)\nfinally:\n    is_over = True"
    session_id = await begin_and_leave(live_service, mode, code)
    # It waits for its turn, which comes when the loop has ended.
    assert await asyncio.to_thread(live_service.stdout, "print(is_over)", session_id) == "True\n"


async def test_client_that_leaves_code_that_does_not_stop_loses_its_session(live_service: Service, mode: str) -> None:
    code = "while True:\n    try: time.sleep(1)\n    except KeyboardInterrupt: pass"
    session_id = await begin_and_leave(live_service, mode, code)
    answer = await asyncio.to_thread(live_service.post, {"code": "1", "session_id": session_id, "timeout": 20})
    assert answer.status_code == 404


async def test_code_that_ends_while_the_service_stops_is_answered(start_service: Callable[..., Service]) -> None:
    service = start_service()
    answers = []
    async with connected(service, mode="legacy") as legacy, connected(service, mode="auto") as modern:
        for client in (legacy, modern):
            _, data = await run(client, "import time")
            call = {"code": "time.sleep(4); print('done')", "session_id": data["session_id"]}
            answers.append(asyncio.create_task(client.call_tool("run_code", call)))
            await begun(service, data["session_id"])
        service.process.send_signal(signal.SIGTERM)
        for answer in await asyncio.gather(*answers):
            assert texts(answer)[0] == "done\n"
