"""Literal kernel messages and the outputs that they become, without a kernel."""

import json
import math
import tracemalloc
from typing import Any

import pytest

from tci.api.models import OutputModel
from tci.kernel.large import large_output
from tci.kernel.messages import Message
from tci.kernel.output_buffer import OutputBuffer, keep
from tci.kernel.outputs import Output, OutputType, clean_text, to_error, to_output

BIG = 16 * 1024**2
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def message(kind: str, **content: Any) -> Message:
    return Message(type=kind, parent_id="p", content=content)


def nested(depth: int, *, of: type = dict) -> Any:
    value: Any = {} if of is dict else []
    for _ in range(depth):
        value = {"a": value} if of is dict else [value]
    return value


def on_wire(output: Output) -> Any:
    """Return an output as the API sends it, which must be valid JSON in UTF-8."""
    sent = OutputModel(type=output.type.value, data=output.data).model_dump_json().encode()

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    return json.loads(sent.decode(), parse_constant=refuse)


@pytest.mark.parametrize(
    ("given", "output"),
    [
        (message("stream", name="stdout", text="x\n"), Output(OutputType.STDOUT, "x\n")),
        (message("stream", name="stderr", text="x\n"), Output(OutputType.STDERR, "x\n")),
        (message("stream", name="stdout", text="\x1b[31mred"), Output(OutputType.STDOUT, "\x1b[31mred")),
        (message("stream", name="stdout", text="a\ud800b"), Output(OutputType.STDOUT, f"a{REPLACEMENT}b")),
        (message("stream", name="stdout", text="a\0b"), Output(OutputType.STDOUT, "a\0b")),
        (
            message("execute_result", data={"text/plain": "4"}, metadata={}, execution_count=1),
            Output(OutputType.EXECUTE_RESULT, {"text/plain": "4"}),
        ),
        (
            message("display_data", data={"image/png": "iVBO\n", "text/plain": "<Figure>"}, metadata={}),
            Output(OutputType.DISPLAY_DATA, {"image/png": "iVBO\n", "text/plain": "<Figure>"}),
        ),
        (
            message("display_data", data={"text/html": ["<b>\n", "x</b>"], "text/x-own": "y"}),
            Output(OutputType.DISPLAY_DATA, {"text/html": "<b>\nx</b>", "text/x-own": "y"}),
        ),
        (
            message(
                "display_data",
                data={"application/json": {"a": [1, None]}, "application/geo+json": {"b": 1.5}},
            ),
            Output(
                OutputType.DISPLAY_DATA,
                {"application/json": {"a": [1, None]}, "application/geo+json": {"b": 1.5}},
            ),
        ),
        (
            message("error", ename="E", evalue="v", traceback=["one", "two"]),
            Output(OutputType.ERROR, "one\ntwo"),
        ),
    ],
)
def test_message_becomes_its_output(given: Message, output: Output) -> None:
    assert to_output(given) == output
    assert on_wire(output) == {"type": output.type.value, "data": output.data}


@pytest.mark.parametrize(
    "given",
    [
        message("stream"),
        message("stream", name="stdout"),
        message("stream", name="stdout", text=""),
        message("stream", name="stdout", text=None),
        message("stream", name="stdout", text=["x"]),
        message("stream", name="stdlog", text="x"),
        message("stream", name=["stdout"], text="x"),
        message("stream", name={}, text="x"),
        message("display_data"),
        message("display_data", data=None),
        message("display_data", data=[]),
        message("display_data", data="x"),
        message("execute_result", data=5),
        message("status", execution_state="idle"),
        message("execute_input", code="x"),
        message("clear_output", wait=False),
        message("comm_open", data={"text/plain": "x"}),
        message("STREAM", name="stdout", text="x"),
        message("", data={}),
        message("stdout", data="x"),
    ],
)
def test_message_that_shows_nothing_or_is_malformed_is_no_output(given: Message) -> None:
    assert to_output(given) is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"traceback": ["a\x1b[0;31mb\x1b[39m", "\x1b[1;32mc\x1b[0m"]}, "ab\nc"),
        (
            {"traceback": ["\x1b]8;;http://x\x07link\x1b]8;;\x1b\\ \x1bMx \x1b[?25l\x1b[38;5;9mred"]},
            "link x red",
        ),
        ({"traceback": ["[31m stays \x1b[2J\x1b[1;1Hgoes"]}, "[31m stays goes"),
        ({"traceback": [], "ename": "E", "evalue": "v"}, "E: v"),
        ({"ename": "E", "evalue": "\x1b[31mv\x1b[0m"}, "E: v"),
        ({"ename": "E"}, "E"),
        ({}, "Error"),
        ({"traceback": None, "ename": None, "evalue": 5}, "Error"),
        ({"traceback": "not a list", "ename": "E", "evalue": "v"}, "E: v"),
        ({"traceback": [None, 5, "x"]}, "x"),
        ({"traceback": ["a\udfffb"]}, f"a{REPLACEMENT}b"),
        ({"traceback": {"0": "x"}, "ename": "E", "evalue": "v"}, "E: v"),
    ],
)
def test_error_is_plain_text(content: dict[str, Any], text: str) -> None:
    assert to_error(content) == Output(OutputType.ERROR, text)
    assert to_output(message("error", **content)) == Output(OutputType.ERROR, text)


def test_escapes_without_end_are_stripped_quickly() -> None:
    for text in ("\x1b[" * 500_000, "\x1b]" * 500_000, "\x1b[" + "1;" * 500_000, "\x1b]" + "x" * 1_000_000):
        assert to_error({"traceback": [text]}).type is OutputType.ERROR


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("plain \N{SNOWMAN} \N{GRINNING FACE}", "plain \N{SNOWMAN} \N{GRINNING FACE}"),
        ("\ud800", REPLACEMENT),
        ("\udfff\ud800", REPLACEMENT * 2),
        ("a\ud83d", f"a{REPLACEMENT}"),
        ("\ud800\ud800x", f"{REPLACEMENT * 2}x"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),
    ],
)
def test_text_is_made_valid(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (5, "5"),
        (True, "true"),
        ({"a": 1}, '{"a": 1}'),
        (["a", 1, None], '["a", 1, null]'),
        ([], ""),
        ("\ud800", REPLACEMENT),
        (["\ud83d", "\ude00"], "\N{GRINNING FACE}"),
        (math.nan, "null"),
    ],
)
def test_representation_of_wrong_type_becomes_text(value: Any, shown: str) -> None:
    output = to_output(message("display_data", data={"text/plain": value}))
    assert output == Output(OutputType.DISPLAY_DATA, {"text/plain": shown})
    assert on_wire(output)["data"] == {"text/plain": shown}


def test_odd_json_is_made_valid() -> None:
    value = {"\ud800": [math.nan, math.inf, -math.inf, 1.5, 2**70, None, True, {"x": "\udfff"}]}
    output = to_output(message("execute_result", data={"application/json": value, "\ud800/x": "y"}))
    assert output is not None
    clean = {REPLACEMENT: [None, None, None, 1.5, 2**70, None, True, {"x": REPLACEMENT}]}
    assert output.data == {"application/json": clean, f"{REPLACEMENT}/x": "y"}
    assert on_wire(output)["data"] == output.data


@pytest.mark.parametrize("mime", ["application/json", "application/geo+json", "text/plain"])
@pytest.mark.parametrize("depth", [10, 100, 200, 300, 450, 700, 900, 1100, 5_000])
@pytest.mark.parametrize("of", [dict, list])
def test_deep_display_is_valid_json_or_left_out(mime: str, depth: int, of: type) -> None:
    output = to_output(message("display_data", data={mime: {"x": nested(depth, of=of)}, "text/html": "kept"}))
    assert output is not None
    assert on_wire(output)["data"]["text/html"] == "kept"


@pytest.mark.parametrize("depth", [100, 900, 5_000])
def test_deep_error_is_text(depth: int) -> None:
    deep = nested(depth, of=list)
    for content in ({"traceback": [deep]}, {"ename": deep}, {"evalue": deep}):
        assert isinstance(on_wire(to_error(content))["data"], str)


def test_neighbouring_chunks_of_a_stream_merge_and_order_is_kept() -> None:
    shown = Output(OutputType.DISPLAY_DATA, {"text/plain": "x"})
    error = Output(OutputType.ERROR, "E")
    given = [
        Output(OutputType.STDOUT, "a"),
        Output(OutputType.STDOUT, "b"),
        Output(OutputType.STDERR, "c"),
        Output(OutputType.STDERR, "d"),
        Output(OutputType.STDOUT, "e"),
        shown,
        shown,
        Output(OutputType.STDOUT, "f"),
        error,
        error,
        Output(OutputType.STDERR, "g"),
    ]
    buffer = OutputBuffer(limit=BIG)
    for output in given:
        buffer.add(output)
    merged = (
        Output(OutputType.STDOUT, "ab"),
        Output(OutputType.STDERR, "cd"),
        Output(OutputType.STDOUT, "e"),
        shown,
        shown,
        Output(OutputType.STDOUT, "f"),
        error,
        Output(OutputType.STDERR, "g"),
    )
    assert buffer.outputs().items() == merged
    assert buffer.outputs().items() == merged  # asking changes nothing


def test_chunks_after_a_look_still_merge() -> None:
    buffer = OutputBuffer(limit=BIG)
    for text in ("a", "b"):
        buffer.add(Output(OutputType.STDOUT, text))
        buffer.outputs().items()
    buffer.add(Output(OutputType.STDOUT, "c"))
    assert buffer.outputs().items() == (Output(OutputType.STDOUT, "abc"),)


def test_empty_buffer_has_no_outputs_and_no_error() -> None:
    buffer = OutputBuffer(limit=BIG)
    assert buffer.outputs().items() == ()
    assert not buffer.has_error
    buffer.add(Output(OutputType.STDERR, "Traceback"))
    assert not buffer.has_error
    buffer.add(Output(OutputType.ERROR, "E"))
    assert buffer.has_error


def test_many_chunks_are_joined_quickly() -> None:
    buffer = OutputBuffer(limit=BIG)
    for _ in range(300_000):
        buffer.add(Output(OutputType.STDOUT, "0123456789"))
    [output] = buffer.outputs().items()
    assert output.data == "0123456789" * 300_000


def test_output_over_the_limit_keeps_head_and_tail() -> None:
    buffer = OutputBuffer(limit=10_000)
    for number in range(10_000):
        buffer.add(Output(OutputType.STDOUT, f"line {number}\n"))
    [output] = buffer.outputs().items()
    assert isinstance(output.data, str)
    assert output.data.startswith("line 0\n")
    assert output.data.endswith("line 9999\n")
    assert len(output.data) < 10_200
    kept = len(output.data) - len(output.data[output.data.index("\n[...") : output.data.index("...]\n") + 5])
    total = sum(len(f"line {number}\n") for number in range(10_000))
    assert buffer.left_out == total - kept


def test_one_text_over_the_limit_is_cut_in_its_middle() -> None:
    buffer = OutputBuffer(limit=2000)
    buffer.add(Output(OutputType.STDOUT, "a" + "\N{GRINNING FACE}" * 5000 + "z"))
    [output] = buffer.outputs().items()
    assert isinstance(output.data, str)
    assert (output.data[0], output.data[-1]) == ("a", "z")
    assert len(output.data.encode()) < 2200
    assert buffer.left_out > 17_000


def test_display_over_the_limit_is_left_out_whole() -> None:
    buffer = OutputBuffer(limit=2000)
    buffer.add(Output(OutputType.DISPLAY_DATA, {"image/png": "x" * 5000}))
    buffer.add(Output(OutputType.STDOUT, "after"))
    assert [output.type for output in buffer.outputs().items()] == [OutputType.STDOUT]
    assert buffer.left_out == 5000


def test_display_below_the_limit_survives_whole_whatever_its_size() -> None:
    for size in (900, 1100, 1700):
        buffer = OutputBuffer(limit=2000)
        buffer.add(Output(OutputType.DISPLAY_DATA, {"image/png": "x" * size}))
        assert buffer.outputs().items() == (Output(OutputType.DISPLAY_DATA, {"image/png": "x" * size}),)


def test_display_too_large_for_what_is_left_takes_nothing_else_away() -> None:
    buffer = OutputBuffer(limit=4000)
    buffer.add(Output(OutputType.STDOUT, "before"))
    buffer.add(Output(OutputType.DISPLAY_DATA, {"image/png": "x" * 5000}))
    buffer.add(Output(OutputType.STDERR, "after"))
    first, *_, last = buffer.outputs().items()
    assert str(first.data).startswith("before")
    assert last == Output(OutputType.STDERR, "after")


def large(kind: str, content: bytes) -> Output | None:
    """Return the output of a content too large to be parsed."""
    return large_output(Message(type=kind, parent_id="p", content={}, large=bytearray(content)))


def shown(output: Output | None) -> Any:
    buffer = OutputBuffer(limit=BIG)
    assert output is not None
    buffer.add(output)
    [kept] = buffer.outputs().items()
    return kept.data


@pytest.mark.parametrize(
    "data",
    [
        {"image/png": "iVBO", "text/plain": "<Figure>"},
        {"text/html": "\N{GRINNING FACE} \n \\ud83d \\\\ \0 \x1b"},
        {"application/json": {"a": [1.5, None, True, '"]}{["', "\\"], "b": {}}, "text/plain": ""},
        {"application/vnd.plotly.v1+json": {"a": [[[[]]]]}},
    ],
)
@pytest.mark.parametrize("kind", ["display_data", "execute_result"])
def test_large_display_is_passed_on_as_it_came(kind: str, data: dict[str, Any]) -> None:
    # The launcher writes whole characters, as orjson does.
    sent = json.dumps({"metadata": {}, "data": data, "transient": {}}, ensure_ascii=False).encode()
    assert shown(large(kind, sent)) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"text/plain": "\xff"}',
        b'{"text/plain": "\xed\xa0\x80"}',
        rb'{"text/plain": "\ud83d"}',
        rb'{"text/plain": "\\\ud83d"}',
        b'{"text/plain": 5}',
        b'{"text/plain": ["x"]}',
        b'{"text/plain": {"x": 1}}',
        b'{"application/json": "x"}',
        b'{"application/json": [1]}',
        b'{"application/json": {"x": ' + b"[" * 300 + b"]" * 300 + b"}}",
        b'{"application/json": {"x": "\xff"}}',
        b'{"%s": "x"}' % (b"x" * 300),
        b"{}",
        b'{"application/json": {"x": ' + b"9" * 5000 + b"}}",
        b'{"application/json": {"x": 1e999}}',
        b'{"application/json": {"x": [' + b"[]," * 1_500_000 + b"[]]}}",
        b"{" + b",".join(b'"k%d": ""' % number for number in range(65)) + b"}",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_large_display_that_a_client_could_not_read_is_left_out(data: bytes) -> None:
    assert large("display_data", b'{"data": ' + data + b"}") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b'{"data": null}', b'{"data": {"a": NaN}}', b'{"data": {"a": "x\ny"}}', b"\xff", b"[" * 9_999],
)
def test_large_content_that_is_no_display_is_left_out(content: bytes) -> None:
    assert large("display_data", content) is None


def test_large_stream_and_error_are_text() -> None:
    text = "x\n\N{GRINNING FACE}" * 50_000
    sent = json.dumps({"name": "stderr", "text": text, "more": [1]}, ensure_ascii=False).encode()
    assert large("stream", sent) == Output(OutputType.STDERR, text)
    assert large("stream", sent.replace(b"stderr", b"stdlog")) is None
    error = json.dumps({"traceback": ["\x1b[31ma", text]}, ensure_ascii=False).encode()
    assert large("error", error) == Output(OutputType.ERROR, f"a\n{text}")


def test_displays_are_read_until_some_limits_worth_has_come_and_text_always() -> None:
    buffer = OutputBuffer(limit=10_000)
    display = Message("display_data", "p", {}, large=json.dumps({"data": {"text/html": "x" * 8_000}}).encode())
    for _ in range(10):
        keep(display, buffer)
    keep(Message("stream", "p", {}, large=json.dumps({"name": "stdout", "text": "the end"}).encode()), buffer)
    assert not buffer.takes_more(1)
    assert str(buffer.outputs().items()[-1].data).endswith("the end")


@pytest.mark.parametrize(
    "content", [b"\\\\" * 2_000_000, b"\\n" * 2_000_000, b"[" * 4_000_000], ids=["backslashes", "newlines", "brackets"]
)
def test_odd_large_display_takes_little_memory_beside_its_own(content: bytes) -> None:
    tracemalloc.start()
    try:
        large("display_data", b'{"data": {"application/json": {"x": "' + content + b'"}}}')
        _kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(content)


@pytest.mark.parametrize("kind", ["stream", "error", "display_data"])
def test_what_can_not_be_shown_is_counted(kind: str) -> None:
    buffer = OutputBuffer(limit=BIG)
    keep(Message(type=kind, parent_id="p", content={}, large=b"x" * 1000), buffer)
    assert buffer.left_out == 1000


def test_conclusion_stands_above_what_the_kernel_said() -> None:
    buffer = OutputBuffer(limit=2000)
    buffer.add(Output(OutputType.ERROR, "KeyboardInterrupt"))
    buffer.conclude("TimeoutError: too long")
    assert buffer.outputs().items() == (Output(OutputType.ERROR, "TimeoutError: too long\nKeyboardInterrupt"),)


def test_second_error_of_a_run_is_dropped() -> None:
    buffer = OutputBuffer(limit=2000)
    buffer.add(Output(OutputType.ERROR, "first"))
    buffer.add(Output(OutputType.ERROR, "second"))
    assert buffer.outputs().items() == (Output(OutputType.ERROR, "first"),)
