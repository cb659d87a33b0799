"""What a stream takes out of the buffer while it fills is what the plain answer would have held."""

import itertools

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from tci.kernel.output_buffer import OutputBuffer, Parts
from tci.kernel.outputs import TEXTS, Output, OutputType

TEXT = st.builds(Output, st.sampled_from(sorted(TEXTS)), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
DISPLAY = st.builds(
    Output, st.just(OutputType.DISPLAY_DATA), st.dictionaries(st.text(max_size=5), st.text(), max_size=3)
)
STEPS = st.lists(st.tuples(TEXT | DISPLAY, st.integers(0, 3)), max_size=40)
"""Outputs, and how often a stream takes one after each."""


def joined(outputs: list[Output]) -> list[tuple[OutputType, object]]:
    """Put the neighbouring pieces of one text together."""
    result: list[tuple[OutputType, object]] = []
    for kind, group in itertools.groupby(outputs, key=lambda output: output.type):
        data = [output.data for output in group]
        result += [(kind, "".join(map(str, data)))] if kind in TEXTS else [(kind, item) for item in data]
    return result


def fill(steps: list[tuple[Output, int]], limit: int) -> tuple[OutputBuffer, OutputBuffer, list[Output]]:
    """Fill a buffer that nothing is taken from, and one that something is; return them and what the stream got."""
    plain, taken_from, taken = OutputBuffer(limit=limit), OutputBuffer(limit=limit), list[Parts]()
    for output, times in steps:
        plain.add(output)
        taken_from.add(output)
        taken += [item for _ in range(times) if (item := taken_from.take()) is not None]
    taken += iter(taken_from.take, None)
    for buffer in (plain, taken_from):
        if buffer.has_error:
            buffer.conclude("how it ended")
    taken += taken_from.rest()
    return (
        plain,
        taken_from,
        [Output(OutputType(item["type"]), item["data"]) for item in map(orjson.loads, map(b"".join, taken))],
    )


@settings(deadline=None)
@given(STEPS)
def test_stream_below_the_limit_is_the_plain_answer(steps: list[tuple[Output, int]]) -> None:
    plain, _, taken = fill(steps, 1024**2)
    assert joined(taken) == joined(list(plain.outputs().items()))
    assert sum(output.type is OutputType.ERROR for output in taken) == plain.has_error


@settings(deadline=None)
@given(STEPS, st.integers(64, 4096))
def test_stream_above_the_limit_stays_within_it(steps: list[tuple[Output, int]], limit: int) -> None:
    plain, taken_from, taken = fill(steps, limit)
    assert bool(plain.left_out) == bool(taken_from.left_out)
    sizes = [len(orjson.dumps(output.data)) - 2 for output in taken if output.type is not OutputType.ERROR]
    assert sum(sizes) <= limit + 200  # the note stands beside it
