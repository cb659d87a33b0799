"""What was looked at, and how well it is."""

from dataclasses import dataclass
from enum import StrEnum

from tci.guard import Fault


class Level(StrEnum):
    """How well something is."""

    OK = "ok"
    WEAK = "weak"
    """It holds, and could hold better; or what can't be told from here."""
    HOLE = "hole"
    """Code gets out, others get in, or nobody can say that they do not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; an attack's also says what it tried."""

    level: Level
    subject: str
    found: str
    mend: str = ""
    tried: str = ""


def ok(subject: str, found: str) -> Finding:
    """Return what is well."""
    return Finding(Level.OK, subject, found)


def weak(subject: str, found: str, mend: str) -> Finding:
    """Return what could be better."""
    return Finding(Level.WEAK, subject, found, mend)


def hole(subject: str, found: str, mend: str) -> Finding:
    """Return what stands open."""
    return Finding(Level.HOLE, subject, found, mend)


def judged(subject: str, fault: Fault | None, well: str) -> Finding:
    """Return a hole for what the start-up guard would refuse."""
    return ok(subject, well) if fault is None else hole(subject, fault.found, fault.mend)
