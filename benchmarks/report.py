"""The lines that a run found: as a table, and as JSON."""

import datetime as dt
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Bar:
    """What the ratio, or without a reference the figure, must keep to."""

    limit: float
    is_floor: bool = False
    """Whether it is the least that is allowed, and not the most."""

    def is_met(self, value: float) -> bool:
        """Whether a value keeps to it."""
        return value >= self.limit if self.is_floor else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.is_floor else '≤'} {self.limit:.4g}"


@dataclass(frozen=True)
class Line:
    """One figure, and what it is compared with."""

    name: str
    figure: float | None
    unit: str
    reference: float | None = None
    reference_name: str = ""
    bar: Bar | None = None
    group: str = ""
    """Lines of one group are alike and are drawn side by side."""

    @property
    def ratio(self) -> float | None:
        """The figure as a multiple of its reference."""
        if self.figure is None or not self.reference:
            return None
        return self.figure / self.reference

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is kept; None where there is none or nothing was measured."""
        value = self.ratio if self.reference_name else self.figure
        return None if self.bar is None or value is None else self.bar.is_met(value)


@dataclass
class Report:
    """All lines of one run."""

    lines: list[Line] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, figure: float | None, unit: str, **more: object) -> None:
        """Add a line; None stands for what could not be measured."""
        self.lines.append(Line(name, figure, unit, **more))  # type: ignore[arg-type]

    def as_text(self) -> str:
        """Return the table, as Markdown that is read as it is."""
        rows = [("what", "figure", "reference", "ratio", "bar", "met"), *map(_row, self.lines)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
        text = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
        ]
        return "\n".join([*text, *(f"\n{failure}" for failure in self.failures)])

    def as_json(self) -> str:
        """Return everything, with the machine that it is of."""
        machine = {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
        lines = [asdict(line) | {"ratio": line.ratio, "is_met": line.is_met} for line in self.lines]
        told = {"at": dt.datetime.now(dt.UTC).isoformat(), "machine": machine | {"load": os.getloadavg()}}
        return json.dumps(told | {"lines": lines, "failures": self.failures}, indent=1)

    def write(self, directory: Path) -> Path:
        """Write both; return the JSON file."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "table.md").write_text(self.as_text() + "\n")
        file = directory / "results.json"
        file.write_text(self.as_json())
        return file


def _row(line: Line) -> tuple[str, str, str, str, str, str]:
    reference = f"{line.reference_name} {_number(line.reference)}" if line.reference_name else ""
    unknown = "not measured" if line.bar or line.figure is None else ""
    met = {None: unknown, True: "yes", False: "NO"}[line.is_met]
    bar = str(line.bar) if line.bar else ""
    ratio = _number(line.ratio) if line.reference_name else ""
    return line.name, f"{_number(line.figure)} {line.unit}".strip(), reference, ratio, bar, met


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
