"""Keeps an execution's outputs within a limit, as the JSON that goes on the wire."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from tci.kernel.large import large_output
from tci.kernel.messages import Message
from tci.kernel.outputs import STREAMS, TEXTS, Output, OutputType, to_output

PIECE_BYTES = 256
"""What a piece of output costs in memory beside its bytes; so a flood of tiny displays is bounded as well."""

RECEIVED_LIMITS = 4
"""How many times the limit may come in large displays before they are left out unread."""

MAX_PIECE_CHARACTERS = 64 * 1024
"""Longest piece of a text: what is dropped at once when there is too much."""

SHOWN = {"stream", "display_data", "execute_result", "error"}

Parts = tuple[bytes | bytearray, ...]
"""An output's JSON in parts: it may be large, and is not to be held twice to be joined."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """An execution's outputs as the JSON list that goes on the wire, in parts.

    They are not joined here, nor held as Python's text, which takes up to four bytes a character: what an
    answer costs in memory is what it weighs on the wire.
    """

    parts: tuple[bytes | bytearray, ...] = (b"[]",)

    def items(self) -> tuple[Output, ...]:
        """Return them as values."""
        return tuple(Output(OutputType(item["type"]), item["data"]) for item in orjson.loads(b"".join(self.parts)))


@dataclass(slots=True)
class Piece:
    """A part of an output as it is kept: of a text its JSON without quotes, of a display its JSON object."""

    type: OutputType
    json: bytearray
    size: int
    """Bytes of output in it, as its caller counts them: of text in UTF-8."""
    taken: int = 0
    """Bytes of its JSON that were taken from the buffer already, and counted with its own costs."""

    @property
    def cost(self) -> int:
        """What it takes in memory, and of the limit."""
        return len(self.json) + (0 if self.taken else PIECE_BYTES)


class OutputBuffer:
    """An execution's outputs in order of arrival, within a limit: of more, the head and the tail are kept.

    The limit counts the answer's JSON. Half of it is the head's once it is reached, the rest the tail's; memory
    and time stay bounded however much arrives.

    A stream takes pieces out while it fills. What was taken is no longer held, but counts as if it were: up to half
    of the limit goes out as it comes, the rest waits for the end, so that of too much the head and the tail are kept
    as ever. An error waits as well, and what comes after it: how the run ended may have to stand above it.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._piece_characters = min(MAX_PIECE_CHARACTERS, max(limit // 16, 16))
        self._head: deque[Piece] = deque()
        self._tail: deque[Piece] = deque()
        """All pieces, until the limit is reached."""
        self._left = limit
        self._received = 0
        self._is_cut = False
        self._conclusion: str | None = None
        self._head_left = limit // 2
        self._last_taken: Piece | None = None
        """What is to be known of the piece that was taken last; its JSON is gone."""
        self.has_more: Callable[[], None] | None = None
        """Called when something was added; for a stream."""
        self.left_out = 0
        """Bytes that arrived and were not kept."""
        self.has_error = False
        """Whether an `error` output arrived."""
        self.has_begun = False
        """Whether the kernel has begun with the run."""

    def add(self, output: Output) -> None:
        """Append an output, or as much of it as the limit allows; of several errors only the first is kept.

        One failure is one error, also where IPython stumbles over the exception that it shows.
        """
        if output.type is OutputType.ERROR:
            if self.has_error:
                return
            self.has_error = True
        if isinstance(output.data, dict):
            self._add_display(output.type, output.data)
        else:
            for start in range(0, len(output.data), self._piece_characters):
                self._add_text(output.type, output.data[start : start + self._piece_characters])
        if self.has_more is not None:
            self.has_more()

    def takes_more(self, size: int) -> bool:
        """Count a large display, and return whether it is worth reading: after some limits' worth none is.

        To read one takes time from all other sessions, and of a flood nearly nothing would be kept.
        """
        self._received += size
        return self._received <= RECEIVED_LIMITS * self._limit

    def leave_out(self, size: int) -> None:
        """Count bytes that are not kept: the sandbox itself held them back, or they can't be shown."""
        self.left_out += size
        self._cut()  # the line that tells of it stands here

    def conclude(self, text: str) -> None:
        """Say how the run ended, as seen from outside; what the kernel said of that end stands below it."""
        self._conclusion = text

    def take(self) -> Parts | None:
        """Take the oldest piece out as an output; None if there is none that may go before the end."""
        source = self._head if self._is_cut else self._tail
        if not source or source[0].type is OutputType.ERROR:
            return None
        if not self._is_cut:
            if source[0].cost > self._head_left:
                return None
            self._head_left -= source[0].cost
        piece = source.popleft()
        self._last_taken = Piece(piece.type, bytearray(), 0, taken=piece.taken + len(piece.json))
        return _item([piece])

    def rest(self) -> Iterator[Parts]:
        """Give what was not taken, as outputs, once the run has ended; the pieces of an error are one output."""
        for kind, group in itertools.groupby(self._pieces(), key=lambda piece: piece.type):
            if kind is OutputType.ERROR:
                yield _item(group)
            else:
                yield from (_item([piece]) for piece in group)

    def outputs(self) -> Outputs:
        """Return what was kept, neighbouring pieces of one stream as one output."""
        return Outputs((b"[", *_list_items(self._pieces()), b"]"))

    def _pieces(self) -> list[Piece]:
        pieces = [*self._head, *self._note(), *self._tail]
        if self._conclusion is not None:
            said = [piece for piece in pieces if piece.type is OutputType.ERROR]
            pieces = [piece for piece in pieces if piece.type is not OutputType.ERROR]
            text = self._conclusion + ("\n" if said else "")
            pieces += [_text_piece(OutputType.ERROR, text), *said]
        return pieces

    def _note(self) -> list[Piece]:
        if not self.left_out:
            return []
        last = self._head[-1] if self._head else self._last_taken
        kind = last.type if last and last.type in STREAMS.values() else OutputType.STDOUT
        note = f"\n[... {self.left_out} bytes of output left out: the limit is {self._limit} bytes ...]\n"
        return [_text_piece(kind, note)]

    def _add_text(self, kind: OutputType, text: str) -> None:
        piece = _text_piece(kind, text)
        last = self._tail[-1] if self._tail else None
        if last and self._goes_on(last, piece):
            last.json += piece.json
            last.size += piece.size
            self._left -= len(piece.json)
        elif last is None and not self._is_cut and self._last_taken and self._goes_on(self._last_taken, piece):
            # As if it had been put to what was taken: many short lines are to cost no more than in a plain answer.
            piece.taken = self._last_taken.taken
            self._tail.append(piece)
            self._left -= piece.cost
        elif self._makes_room(piece.cost):
            self._tail.append(piece)
            self._left -= piece.cost
        else:
            self.left_out += piece.size

    def _goes_on(self, last: Piece, piece: Piece) -> bool:
        room = min(self._piece_characters - last.taken, self._left)
        return last.type is piece.type and len(last.json) + len(piece.json) <= room

    def _add_display(self, kind: OutputType, bundle: dict[str, Any]) -> None:
        parts: list[bytes | memoryview] = []
        size = 0
        for mime, value in bundle.items():
            body = memoryview(value) if isinstance(value, msgspec.Raw) else orjson.dumps(value)
            parts += [b"," if parts else b"{", orjson.dumps(mime), b":", body]
            size += len(value.encode()) if isinstance(value, str) else len(body)
        parts.append(b"}" if parts else b"{}")
        # Room first: the new and the old never stand beside each other in full.
        if self._makes_room(sum(map(len, parts)) + PIECE_BYTES):
            self._tail.append(Piece(kind, bytearray().join(parts), size))
            self._left -= self._tail[-1].cost
        else:
            self.left_out += size

    def _makes_room(self, cost: int) -> bool:
        """Drop the oldest pieces after the head until there is room; return False where there can be none."""
        if cost <= self._left:
            return True
        self._cut()
        if cost > self._left + sum(piece.cost for piece in self._tail):
            return False
        # Whole pieces go: to shorten one each time would cost its length for every byte that comes.
        while cost > self._left:
            dropped = self._tail.popleft()
            self._left += dropped.cost
            self.left_out += dropped.size
        return True

    def _cut(self) -> None:
        """Make a head of what is there, up to half of what the limit allows; done once."""
        if self._is_cut:
            return
        self._is_cut = True
        while self._tail and self._tail[0].cost <= self._head_left:
            self._head.append(self._tail.popleft())
            self._head_left -= self._head[-1].cost


def _text_piece(kind: OutputType, text: str) -> Piece:
    return Piece(kind, bytearray(memoryview(orjson.dumps(text))[1:-1]), len(text.encode()))


def _item(pieces: Iterable[Piece]) -> Parts:
    """Return one output: the pieces of one text, or one display."""
    first, *more = pieces
    quote = b'"' if first.type in TEXTS else b""
    opening = b'{"type":"' + first.type.value.encode() + b'","data":' + quote
    return (opening, first.json, *(piece.json for piece in more), quote + b"}")


def _list_items(pieces: Iterable[Piece]) -> Iterator[bytes | bytearray]:
    """Give the items of a JSON list in parts; the pieces of one text are one item."""
    comma = b""
    for kind, group in itertools.groupby(pieces, key=lambda piece: piece.type):
        opening = b'{"type":"' + kind.value.encode() + b'","data":'
        if kind in TEXTS:
            yield from (comma, opening, b'"', *(piece.json for piece in group), b'"}')
            comma = b","
        else:
            for piece in group:
                yield from (comma, opening, piece.json, b"}")
                comma = b","


def keep(message: Message, outputs: OutputBuffer) -> None:
    """Put what a message shows into the buffer, or count what can't be shown of it."""
    if message.left_out:  # before what this message shows
        outputs.leave_out(message.left_out)
    if message.large is None:
        output = to_output(message)
    elif message.type in SHOWN:
        is_text = message.type in {"stream", "error"}
        output = large_output(message) if is_text or outputs.takes_more(len(message.large)) else None
        if output is None:
            outputs.leave_out(len(message.large))
    else:
        return
    if output is not None:
        outputs.add(output)
