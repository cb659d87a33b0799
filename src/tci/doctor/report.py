"""The report of an examination, as a table for people and as JSON for machines."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from tci.doctor.finding import Finding, Level

WIDTH = 120

SHOWN = {Level.OK: "ok", Level.WEAK: "weak", Level.HOLE: "HOLE"}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found on the machine and in the settings, and what became of each attack."""

    findings: tuple[Finding, ...]
    attacks: tuple[Finding, ...]

    def count(self, level: Level) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level is level for finding in (*self.findings, *self.attacks))

    @property
    def has_hole(self) -> bool:
        """Whether anything stands open."""
        return self.count(Level.HOLE) > 0

    def as_json(self) -> str:
        """Return everything, for machines."""
        counts = {level.value: self.count(level) for level in Level}
        parts = {"findings": self.findings, "attacks": self.attacks}
        body = {name: [asdict(finding) for finding in part] for name, part in parts.items()}
        return json.dumps({"counts": counts, **body}, indent=2)

    def as_text(self) -> str:
        """Return the tables, and a last line that sums up."""
        lines = [*_table("looked at", self.findings), "", *_table("attack", self.attacks), "", self._summary()]
        return "\n".join(lines)

    def _summary(self) -> str:
        held = sum(finding.level is Level.OK for finding in self.attacks)
        return (
            f"Holes: {self.count(Level.HOLE)}. Weaknesses: {self.count(Level.WEAK)}."
            f" Attacks that were held: {held} of {len(self.attacks)}."
        )


def _table(title: str, findings: Sequence[Finding]) -> Iterator[str]:
    width = max([len(title), *(len(finding.subject) for finding in findings)])
    yield f"      {title.upper():{width}}  FOUND"
    for finding in findings:
        first = f"{SHOWN[finding.level]:4}  {finding.subject:{width}}  "
        yield from _wrapped(first, finding.found)
        for word, text in (("tried: ", finding.tried), ("mend: ", finding.mend)):
            if text:
                yield from _wrapped(" " * len(first) + word, text)


def _wrapped(first: str, text: str) -> list[str]:
    """Return a text behind its first words, its further lines below where it begins."""
    one_line = " ".join(text.split())
    return textwrap.wrap(first + one_line, WIDTH, subsequent_indent=" " * len(first), break_on_hyphens=False) or [first]
