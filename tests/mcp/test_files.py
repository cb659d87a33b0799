"""The tools for files, by the official SDK's client, on a real service."""

import base64
from typing import Any

import pytest
from mcp import Client
from mcp.types import BlobResourceContents, CallToolResult, EmbeddedResource

from tests.conftest import Service
from tests.mcp.conftest import connected, images, texts


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, texts(result)
    return result


async def test_file_is_written_listed_and_read(service: Service, mode: str) -> None:
    session_id = service.run("")["session_id"]
    async with connected(service, mode=mode) as client:
        written = await call(client, "write_file", session_id=session_id, path="dir/a.txt", content="ä\n")
        assert written.structured_content["file"]["name"] == "dir/a.txt"
        listed = await call(client, "list_files", session_id=session_id)
        assert "dir/a.txt  3 bytes" in texts(listed)[0].splitlines()
        assert "dir/a.txt" in [file["name"] for file in listed.structured_content["files"]]
        read = await call(client, "read_file", session_id=session_id, path="dir/a.txt")
    assert texts(read) == ["ä\n"]
    assert (read.structured_content["length"], read.structured_content["is_complete"]) == (3, True)
    assert service.stdout("print(ascii(open('dir/a.txt').read()))", session_id) == "'\\xe4\\n'\n"


async def test_long_text_is_read_in_parts_that_end_between_characters(live_service: Service) -> None:
    session_id = live_service.run("open('long.txt', 'w').write('aä€' * 5)")["session_id"]
    parts, start = [], 0
    async with connected(live_service) as client:
        while True:
            read = await call(client, "read_file", session_id=session_id, path="long.txt", start=start, length=4)
            parts += texts(read)
            start += read.structured_content["length"]
            if read.structured_content["is_complete"]:
                break
    assert len(parts) > 5
    assert "".join(parts) == "aä€" * 5


async def test_text_that_json_makes_long_is_read_as_far_as_a_client_takes(live_service: Service) -> None:
    session_id = live_service.run("open('bells.txt', 'w').write('\\x07' * 400_000)")["session_id"]
    async with connected(live_service, mode="legacy") as client:
        read = await call(client, "read_file", session_id=session_id, path="bells.txt", length=400_000)
    [text] = texts(read)
    assert 100_000 < len(text) < 150_000
    assert (read.structured_content["length"], read.structured_content["is_complete"]) == (len(text), False)


async def test_image_is_an_image_and_other_bytes_are_a_resource(live_service: Service) -> None:
    session_id = live_service.run("")["session_id"]
    png, other = b"\x89PNG\r\n\x1a\n" + bytes(20), b"\xff\0\1"
    async with connected(live_service) as client:
        for path, content in (("a.png", png), ("b c.bin", other)):
            encoded = base64.b64encode(content).decode()
            await call(client, "write_file", session_id=session_id, path=path, content=encoded, encoding="base64")
        [image] = images(await call(client, "read_file", session_id=session_id, path="a.png"))
        [block] = (await call(client, "read_file", session_id=session_id, path="b c.bin")).content
    assert (image.mime_type, base64.b64decode(image.data)) == ("image/png", png)
    assert isinstance(block, EmbeddedResource)
    assert isinstance(block.resource, BlobResourceContents)
    assert str(block.resource.uri) == f"tci://{session_id}/b%20c.bin"
    assert base64.b64decode(block.resource.blob) == other


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("read_file", {"path": "missing"}, "file_not_found: "),
        ("read_file", {"path": "../x"}, "invalid_request: path: "),
        ("read_file", {"path": "/etc/passwd"}, "invalid_request: path: "),
        ("read_file", {"path": "x", "length": 10**9}, "invalid_request: length: "),
        ("write_file", {"path": "../x", "content": ""}, "invalid_request: path: "),
        ("write_file", {"path": "x", "content": "?", "encoding": "base64"}, "invalid_request: "),
    ],
)
async def test_file_that_can_not_be_is_an_error_of_the_tool(
    live_service: Service, tool: str, arguments: dict[str, Any], says: str
) -> None:
    session_id = live_service.run("")["session_id"]
    async with connected(live_service) as client:
        result = await client.call_tool(tool, {"session_id": session_id, **arguments})
    assert result.is_error
    assert texts(result)[0].startswith(says)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("list_files", {}), ("read_file", {"path": "a"}), ("write_file", {"path": "a", "content": "b"})],
)
async def test_files_of_another_account_are_not_found(
    live_service: Service, tool: str, arguments: dict[str, Any]
) -> None:
    session_id = live_service.run("open('a', 'w').write('secret')")["session_id"]
    async with connected(live_service, key=live_service.new_key("another")) as client:
        result = await client.call_tool(tool, {"session_id": session_id, **arguments})
    assert result.is_error
    assert texts(result)[0].startswith("session_not_found: ")
    assert live_service.stdout("print(open('a').read())", session_id) == "secret\n"
