"""Reads the fenced blocks of a document, and compares what one printed with what the document shows.

A block whose first line says `run` is run. If the next one says `shows`, it is what the first prints: ids, times and
what differs from run to run are compared by their form, and `...` stands for anything.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^```(\w+)((?: [\w.-]+)*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FORMS = (
    (re.compile(r"\b(ses|req)_[1-9A-HJ-NP-Za-km-z]{6,}"), r"\1_*"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"), "MOMENT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DATE"),
    (re.compile(r"(\"(?:duration_ms|cpu_ms|peak_memory_bytes)\": ?)[\d.]+"), r"\1N"),
)
VARYING = {"duration_ms", "cpu_ms", "peak_memory_bytes", "sessions", "amount_usd", "account", "memory_bytes"}
"""Members whose value hangs on the machine, or on what was run before."""

ANYTHING = "..."


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    shown: "Block | None" = None
    """What it prints, where the document says so."""

    @property
    def is_run(self) -> bool:
        """Whether the document says that it can be run as it stands."""
        return "run" in self.words


def blocks_of(document: Path) -> list[Block]:
    """Return the blocks of a document, in order."""
    text = document.read_text()
    found = [
        Block(match[1], tuple(match[2].split()), match[3], text.count("\n", 0, match.start()) + 1)
        for match in FENCE.finditer(text)
    ]
    return [
        replace(block, shown=after if after is not None and "shows" in after.words else None)
        for block, after in zip(found, [*found[1:], None], strict=True)
        if "shows" not in block.words
    ]


def difference(shown: Block, printed: str) -> str | None:
    """Return where what was printed differs from what the document shows, None if nowhere."""
    if shown.language == "json":
        return _difference(json.loads(shown.text), json.loads(printed), "")
    expected, actual = ([_form(line.rstrip()) for line in text.strip().splitlines()] for text in (shown.text, printed))
    pattern = "\n".join(re.escape(line) for line in expected).replace(re.escape(ANYTHING), ".*")
    return None if re.fullmatch(pattern, "\n".join(actual), re.DOTALL) else f"shown: {expected}\nprinted: {actual}"


def _difference(shown: Any, printed: Any, path: str) -> str | None:
    """Return the first member that differs, None if none does."""
    if shown == ANYTHING:
        return None
    if isinstance(shown, dict) and isinstance(printed, dict):
        names = shown.keys() - {ANYTHING}
        if names - printed.keys() or (ANYTHING not in shown and printed.keys() - names):
            return f"{path}: shown {sorted(shown)}, printed {sorted(printed)}"
        pairs = [(shown[name], printed[name], f"{path}.{name}") for name in sorted(names)]
    elif isinstance(shown, list) and isinstance(printed, list):
        first = [item for item in shown if item != ANYTHING]
        if len(printed) < len(first) or (first == shown and len(printed) > len(first)):
            return f"{path}: shown {len(first)} items, printed {printed}"
        pairs = [(*pair, f"{path}[{index}]") for index, pair in enumerate(zip(first, printed, strict=False))]
    elif path.rpartition(".")[2] in VARYING and _kind(shown) is _kind(printed):
        return None
    else:
        return None if _form(shown) == _form(printed) else f"{path}: shown {shown!r}, printed {printed!r}"
    return next((found for pair in pairs if (found := _difference(*pair))), None)


def _kind(value: Any) -> type:
    return float if isinstance(value, int) else type(value)


def _form(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for pattern, form in FORMS:
        value = pattern.sub(form, value)
    return value
