"""What holds for every message, every output and every request, whatever is in it."""

import itertools
import json
import math
import os.path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tci.api.models import ExecuteRequest
from tci.kernel.messages import Message, Wire
from tci.kernel.output_buffer import OutputBuffer
from tci.kernel.outputs import Output, OutputType, to_error, to_output
from tests.kernel.hostile import signed

KEY = "the kernel's key"
EXAMPLES = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))

ANY_TEXT = st.text(st.characters(codec=None), max_size=30)
"""Lone surrogates and NUL included."""

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=15,
)
OBJECTS = st.dictionaries(ANY_TEXT, JSON, max_size=5)

MIMES = st.sampled_from(["text/plain", "image/png", "application/json", "application/geo+json", "+json"]) | ANY_TEXT
KNOWN_TYPES = st.sampled_from(["stream", "display_data", "execute_result", "error", "status"])
TYPES = KNOWN_TYPES | ANY_TEXT
CONTENTS = OBJECTS | st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["stdout", "stderr", "stdlog"]) | JSON,
        "text": ANY_TEXT | JSON,
        "data": st.dictionaries(MIMES, JSON, max_size=4) | JSON,
        "traceback": st.lists(ANY_TEXT | JSON, max_size=4) | JSON,
        "ename": ANY_TEXT | JSON,
        "evalue": ANY_TEXT | JSON,
        "status": JSON,
    },
)


def same(left: Any, right: Any) -> bool:
    """Compare JSON as values: NaN is itself, and `1` is not `1.0`."""
    return json.dumps(left) == json.dumps(right)


def python_json(content: Any) -> bytes:
    """Write JSON as ipykernel does."""
    return json.dumps(content).encode()


@EXAMPLES
@given(OBJECTS, st.lists(st.binary(max_size=20), max_size=3))
def test_request_is_read_as_it_was_written(content: dict[str, Any], buffers: list[bytes]) -> None:
    wire = Wire(KEY)
    message_id, frames = wire.request("execute_request", content, buffers)
    assert frames[6:] == buffers
    message = wire.read([b"identity", *frames])
    assert message is not None
    assert (message.type, message.parent_id) == ("execute_request", "")
    assert message_id == orjson.loads(frames[2])["msg_id"]
    # Where orjson wrote it, what is no number of JSON's is null; an integer of more than 64 bits became a float.
    assert same(small(message.content), small(content)) or same(small(message.content), small(finite(content)))
    assert Wire("another key").read(frames) is None


def finite(value: Any) -> Any:
    """Return JSON with null for what is not a number of JSON's: so orjson writes it."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: finite(item) for key, item in value.items()}
        case list():
            return [finite(item) for item in value]
        case _:
            return value


@EXAMPLES
@given(OBJECTS)
def test_content_of_a_kernel_is_read_as_it_was_written(content: dict[str, Any]) -> None:
    message = Wire(KEY).read(signed(KEY, {"msg_type": "x"}, {"msg_id": "p"}, python_json(content)))
    assert message is not None
    assert (message.type, message.parent_id) == ("x", "p")
    # An integer of more than 64 bits may have become a float.
    assert same(small(message.content), small(content))


def small(value: Any) -> Any:
    """Return JSON without the numbers that orjson does not keep exactly."""
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            return value if isinstance(value, int) and -(2**63) <= value < 2**64 else "number"
        case dict():
            return {key: small(item) for key, item in value.items()}
        case _:
            return [small(item) for item in value]


@EXAMPLES
@given(st.lists(st.binary(max_size=30), max_size=9) | st.lists(st.sampled_from([b"<IDS|MSG>", b"", b"{}"]), max_size=9))
def test_any_frames_without_the_key_are_no_message(frames: list[bytes]) -> None:
    assert Wire(KEY).read(frames) is None


@EXAMPLES
@given(*[JSON | st.binary(max_size=20)] * 4)
def test_any_signed_parts_are_a_message_or_none(header: Any, parent: Any, content: Any, metadata: Any) -> None:
    message = Wire(KEY).read(signed(KEY, header, parent, content, metadata))
    assert message is None or (isinstance(message.content, dict) and message.left_out >= 0)


def assert_output(output: Output) -> None:
    """Check that an output can be sent, and that strict clients take it."""
    sent = orjson.dumps(output.data)
    sent.decode()
    if output.type in {OutputType.STDOUT, OutputType.STDERR, OutputType.ERROR}:
        assert isinstance(output.data, str)
        assert output.data
    else:
        assert isinstance(output.data, dict)
        for mime, value in output.data.items():
            is_json = mime == "application/json" or mime.endswith("+json")
            assert isinstance(value, dict if is_json else str), (mime, value)
    assert orjson.loads(sent) is not None


@settings(EXAMPLES, max_examples=120)
@given(TYPES, CONTENTS)
def test_any_content_is_a_valid_output_or_none(kind: str, content: dict[str, Any]) -> None:
    output = to_output(Message(type=kind, parent_id="p", content=content))
    if output is not None:
        assert_output(output)


@EXAMPLES
@given(CONTENTS)
def test_any_content_is_a_valid_error(content: dict[str, Any]) -> None:
    output = to_error(content)
    assert output.type is OutputType.ERROR
    assert_output(output)


@EXAMPLES
# Frames whose header holds a lone surrogate are no message.
@given(KNOWN_TYPES | st.text(st.characters(codec="utf-8")), CONTENTS)
def test_what_the_wire_gives_is_a_valid_output_or_none(kind: str, content: dict[str, Any]) -> None:
    message = Wire(KEY).read(signed(KEY, {"msg_type": kind}, {"msg_id": "p"}, python_json(content)))
    assert message is not None
    if output := to_output(message):
        assert_output(output)


CLEAN_TEXT = st.text(st.characters(codec="utf-8"), max_size=300) | st.integers(1, 3000).map(lambda size: "x" * size)
STREAMS = st.builds(Output, st.sampled_from([OutputType.STDOUT, OutputType.STDERR]), CLEAN_TEXT.filter(bool))
SHOWN = st.builds(
    Output,
    st.sampled_from([OutputType.DISPLAY_DATA, OutputType.EXECUTE_RESULT]),
    st.dictionaries(st.sampled_from(["text/plain", "image/png"]), CLEAN_TEXT, max_size=2),
)
ERRORS = st.builds(Output, st.just(OutputType.ERROR), CLEAN_TEXT.filter(bool))
NOTE_BYTES = 120


def weight(output: Output) -> int:
    """Return an output's bytes, as the limit counts them."""
    texts = [output.data] if isinstance(output.data, str) else output.data.values()
    return sum(len(text.encode()) for text in texts)


def buffer_of(outputs: list[Output], limit: int) -> OutputBuffer:
    buffer = OutputBuffer(limit=limit)
    for output in outputs:
        buffer.add(output)
    return buffer


def note_of(buffer: OutputBuffer, limit: int) -> str:
    return f"\n[... {buffer.left_out} bytes of output left out: the limit is {limit} bytes ...]\n"


@EXAMPLES
@given(st.lists(STREAMS | SHOWN | ERRORS, max_size=40), st.integers(1024, 20_000))
def test_buffer_keeps_no_more_than_its_limit_and_counts_the_rest(outputs: list[Output], limit: int) -> None:
    buffer = buffer_of(outputs, limit)
    kept = buffer.outputs().items()
    assert kept == buffer.outputs().items()
    note = note_of(buffer, limit)
    noted = len(note) if buffer.left_out else 0
    assert noted <= NOTE_BYTES
    assert sum(map(weight, kept)) <= limit + noted
    errors = [output for output in outputs if output.type is OutputType.ERROR]
    given_bytes = sum(weight(output) for output in outputs) - sum(map(weight, errors[1:]))
    assert sum(map(weight, kept)) - noted + buffer.left_out == given_bytes
    assert buffer.has_error is bool(errors)
    for before, after in itertools.pairwise(kept):
        assert before.type is not after.type or isinstance(before.data, dict), "neighbours of one stream are one"


@EXAMPLES
@given(st.lists(STREAMS | SHOWN, max_size=40))
def test_buffer_below_its_limit_keeps_all_in_order(outputs: list[Output]) -> None:
    buffer = buffer_of(outputs, 2**30)
    assert buffer.left_out == 0
    merged: list[Output] = []
    for output in outputs:
        if merged and isinstance(output.data, str) and merged[-1].type is output.type:
            merged[-1] = Output(output.type, str(merged[-1].data) + output.data)
        else:
            merged.append(output)
    assert buffer.outputs().items() == tuple(merged)


@EXAMPLES
@given(st.lists(CLEAN_TEXT.filter(bool), min_size=1, max_size=40), st.integers(1024, 8000))
def test_buffer_keeps_the_beginning_and_the_end_of_a_stream(texts: list[str], limit: int) -> None:
    buffer = buffer_of([Output(OutputType.STDOUT, text) for text in texts], limit)
    [output] = buffer.outputs().items()
    whole, kept = "".join(texts), str(output.data)
    if not buffer.left_out:
        assert kept == whole
        return
    note = note_of(buffer, limit)
    head, tail = kept.split(note)
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert tail


@EXAMPLES
@given(st.lists(STREAMS | ERRORS, max_size=10), ANY_TEXT.map(lambda text: text.encode("utf-8", "replace").decode()))
def test_conclusion_is_the_one_error_and_the_last_output(outputs: list[Output], text: str) -> None:
    buffer = buffer_of(outputs, 5000)
    buffer.conclude(text)
    *others, last = buffer.outputs().items()
    assert last.type is OutputType.ERROR
    assert str(last.data).startswith(text)
    assert all(output.type is not OutputType.ERROR for output in others)


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "code": ANY_TEXT | JSON,
        "language": st.just("python") | JSON,
        "session_id": ANY_TEXT | JSON,
        "timeout": st.floats() | JSON,
        "files": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "name": ANY_TEXT | st.from_regex(r"[a./\\\x00~]{0,8}", fullmatch=True) | JSON,
                    "encoding": st.sampled_from(["string", "base64", "hex"]) | JSON,
                    "content": ANY_TEXT | JSON,
                },
            ),
            max_size=3,
        )
        | JSON,
    },
)


def parsed(body: bytes) -> ExecuteRequest | None:
    """Return a request, or None where it is refused as it should be; anything else fails the test."""
    try:
        return ExecuteRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        assert isinstance(first["msg"], str)
        return None


def assert_request(request: ExecuteRequest) -> None:
    """Check what the service relies on."""
    assert request.language == "python"
    assert isinstance(request.code, str)
    assert request.timeout is None or (request.timeout > 0 and math.isfinite(request.timeout))
    for name, content in request.decoded_files().items():
        assert isinstance(content, bytes)
        assert_inside(name)


def assert_inside(name: str) -> None:
    path = os.path.normpath(os.path.join("/work", name))  # noqa: PTH118 (normpath is what is asked)
    assert path.startswith("/work/")
    assert path == f"/work/{name}"
    assert "\0" not in name
    name.encode()


@settings(EXAMPLES, max_examples=120)
@given(FIELDS | JSON)
def test_any_json_is_a_request_or_refused(body: Any) -> None:
    if request := parsed(python_json(body)):
        assert_request(request)


@EXAMPLES
@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_bytes_are_refused(body: bytes) -> None:
    assert parsed(body) is None


@EXAMPLES
@given(FIELDS.map(python_json), st.integers(0, 500), st.binary(min_size=1, max_size=3))
def test_damaged_request_is_a_request_or_refused(body: bytes, place: int, damage: bytes) -> None:
    if request := parsed(body[:place] + damage + body[place + len(damage) :]):
        assert_request(request)


@pytest.mark.parametrize("depth", [10, 100, 200, 500, 100_000])
@pytest.mark.parametrize("place", ["%s", '{"code": %s}', '{"code": "", "x": %s}', '{"code": "", "files": %s}'])
def test_deep_request_is_a_request_or_refused(place: str, depth: int) -> None:
    for deep in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        parsed((place % deep).encode())


PARTS = st.sampled_from(["", ".", "..", "...", "a", "~", "\\", " ", "\0", "\ud800", "\N{SNOWMAN}", "x" * 300, "a.b"])


@settings(EXAMPLES, max_examples=120)
@given(st.lists(PARTS | ANY_TEXT, max_size=6).map("/".join))
def test_accepted_file_name_never_leaves_the_directory(name: str) -> None:
    file = {"name": name, "encoding": "string", "content": ""}
    if request := parsed(python_json({"code": "", "files": [file]})):
        [accepted] = request.decoded_files()
        assert_inside(accepted)
