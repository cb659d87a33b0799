"""Frames to messages and back: what is signed, what is refused, and that nothing odd raises."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from jupyter_client.session import Session

from tci.kernel.messages import DELIMITER, Message, Wire

KEY = "the kernel's key"
HEADER = {
    "msg_id": "m",
    "msg_type": "stream",
    "session": "s",
    "username": "u",
    "date": "2026-01-01",
    "version": "5.4",
}
PARENT = {"msg_id": "p"}
CONTENT = {"name": "stdout", "text": "x"}

DEEP = b"[" * 100_000 + b"]" * 100_000
DEEP_OBJECT = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


def as_bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else json.dumps(part).encode()


def frames(
    header: Any = HEADER,
    parent: Any = PARENT,
    content: Any = CONTENT,
    *,
    metadata: Any = b"{}",
    key: str = KEY,
) -> list[bytes]:
    """Return what a kernel would send; a part that is not bytes is written as JSON."""
    parts = [as_bytes(part) for part in (header, parent, metadata, content)]
    signature = hmac.new(key.encode(), b"".join(parts), hashlib.sha256).hexdigest().encode()
    return [DELIMITER, signature, *parts]


@pytest.mark.parametrize("before", [[], [b"topic"], [b"identity", b"", b"more"]])
@pytest.mark.parametrize("after", [[], [b"buffer"], [b"", DELIMITER]])
def test_signed_frames_are_read(before: list[bytes], after: list[bytes]) -> None:
    assert Wire(KEY).read([*before, *frames(), *after]) == Message(type="stream", parent_id="p", content=CONTENT)


def test_parent_without_an_id_is_read() -> None:
    assert Wire(KEY).read(frames(parent={})) == Message(type="stream", parent_id="", content=CONTENT)


def test_own_request_is_read_by_jupyter_client_and_back() -> None:
    wire, session = Wire(KEY), Session(key=KEY.encode())
    content = {"code": "print('\N{SNOWMAN}')", "silent": False}
    message_id, sent = wire.request("execute_request", content, [b"one", b"two"])
    _identities, rest = session.feed_identities(sent)
    message = session.deserialize(rest)
    assert message["msg_id"] == message_id
    assert message["msg_type"] == "execute_request"
    assert message["content"] == content
    assert [bytes(buffer) for buffer in message["buffers"]] == [b"one", b"two"]

    reply = session.msg("execute_reply", {"status": "ok"}, parent=message)
    assert wire.read(session.serialize(reply)) == Message("execute_reply", message_id, {"status": "ok"})


def test_lone_surrogate_in_a_request_is_escaped() -> None:
    _id, sent = Wire(KEY).request("execute_request", {"code": "\ud800"})
    assert sent[5] == b'{"code": "\\ud800"}'


@pytest.mark.parametrize(
    "read",
    [
        frames(key="another key"),
        frames(key=""),
        [*frames()[:1], b"", *frames()[2:]],
        [*frames()[:1], b"0" * 64, *frames()[2:]],
        [*frames()[:1], "\N{SNOWMAN}".encode(), *frames()[2:]],
        [*frames()[:5], b'{"name": "stdout", "text": "forged"}'],
        [*frames()[:2], b'{"msg_id": "m", "msg_type": "status"}', *frames()[3:]],
    ],
)
def test_wrong_signature_is_no_message(read: list[bytes]) -> None:
    assert Wire(KEY).read(read) is None


@pytest.mark.parametrize(
    "read",
    [
        [],
        [b""],
        [DELIMITER],
        [b"a", b"b", b"c", b"d", b"e"],
        frames()[1:],
        frames()[:5],
        frames()[:2],
        [DELIMITER] * 6,
    ],
)
def test_too_few_frames_are_no_message(read: list[bytes]) -> None:
    assert Wire(KEY).read(read) is None


ODD = {
    "empty": b"",
    "no JSON": b"{nonsense",
    "null": b"null",
    "list": b"[]",
    "number": b"5",
    "string": b'"x"',
    "true": b"true",
    "NaN": b"NaN",
    "not UTF-8": b'{"msg_id": "\xff"}',
    "deep": DEEP,
    "deep object": DEEP_OBJECT,
    "deep below": b'{"msg_id": "m", "msg_type": "stream", "x": ' + DEEP + b"}",
    "long number": b'{"msg_id": ' + b"9" * 10_000 + b"}",
    "huge exponent": b'{"msg_id": 1e999999999}',
}


@pytest.mark.parametrize("part", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize("place", ["header", "parent", "content", "metadata"])
def test_odd_part_never_raises(place: str, part: bytes) -> None:
    parts: dict[str, Any] = {place: part}
    message = Wire(KEY).read(frames(**parts))
    if place == "metadata":
        assert message == Message(type="stream", parent_id="p", content=CONTENT)
    elif message is not None:
        assert isinstance(message.type, str)
        assert isinstance(message.parent_id, str)
        assert isinstance(message.content, dict)


@pytest.mark.parametrize("value", [None, 5, True, [], {}, ["stream"]])
def test_header_of_wrong_type_is_no_message(value: Any) -> None:
    assert Wire(KEY).read(frames(header={**HEADER, "msg_type": value})) is None
    assert Wire(KEY).read(frames(parent={"msg_id": value})) is None
    assert Wire(KEY).read(frames(header=HEADER | {"msg_type": "x"}, content=value)) in (
        None,
        Message(type="x", parent_id="p", content={}),
    )


@pytest.mark.parametrize("missing", ["msg_type", "msg_id"])
def test_header_without_a_field_does_not_raise(missing: str) -> None:
    header = {name: value for name, value in HEADER.items() if name != missing}
    message = Wire(KEY).read(frames(header=header))
    assert (message is None) is (missing == "msg_type")


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b'{"x": NaN}', "nan"),
        (b'{"x": [-Infinity, 1]}', "[-inf, 1]"),
        (rb'{"x": "\ud800"}', "'\\ud800'"),
        (b'{"x": "\xed\xa0\x80"}', "'\\ud800'"),
        (rb'{"x": "\ud83d\ude00"}', "'\N{GRINNING FACE}'"),
        (b'{"x": 1, "x": 2}', "2"),
        (b'{"x": 123456789012345678901234567890}', None),
    ],
)
def test_json_that_only_python_reads_is_read(content: bytes, read: str | None) -> None:
    message = Wire(KEY).read(frames(content=content))
    assert message is not None
    if read is not None:
        assert repr(message.content["x"]) == read


@pytest.mark.parametrize("depth", [10, 500, 900, 1000, 1020, 1030, 2000, 50_000])
def test_depth_of_json_never_raises(depth: int) -> None:
    for tail in (b"1", b"NaN", rb'"\ud800"'):
        content = b'{"x":' + b"[" * depth + tail + b"]" * depth + b"}"
        message = Wire(KEY).read(frames(content=content))
        assert message is None or isinstance(message.content, dict)
