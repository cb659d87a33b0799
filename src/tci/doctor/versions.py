"""Known holes of the programs that confine: which versions have them."""

import re

LATEST = 99
"""Stands for "no candidate": 1.4.0 comes after 1.4.0-rc.3."""

Version = tuple[int, int, int, int]

RUNC_HOLES: tuple[tuple[str, tuple[Version, ...]], ...] = (
    ("CVE-2024-21626", ((1, 1, 12, LATEST),)),
    ("CVE-2025-31133", ((1, 2, 8, LATEST), (1, 3, 3, LATEST), (1, 4, 0, 3))),
    ("CVE-2025-52565", ((1, 2, 8, LATEST), (1, 3, 3, LATEST), (1, 4, 0, 3))),
    ("CVE-2025-52881", ((1, 2, 8, LATEST), (1, 3, 3, LATEST), (1, 4, 0, 3))),
)
"""Each hole with the first version of each line of releases that does not have it."""


def parse_version(text: str) -> Version | None:
    """Return the version that a text begins with, or None; what a distribution adds after it is left out."""
    found = re.match(r"\D{0,10}(\d+)\.(\d+)(?:\.(\d+))?(?:[-~]rc\.?(\d+))?", text)
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch or 0), int(candidate or LATEST)


def is_fixed(version: Version, fixes: tuple[Version, ...]) -> bool:
    """Whether a version has the fix: its own line's, or it is of a later line than any that needed one."""
    same_line = [fix for fix in fixes if fix[:2] == version[:2]]
    return version >= same_line[0] if same_line else version > max(fixes)


def known_runc_holes(version: Version) -> list[str]:
    """Return the names of the known holes that a version of runc has as its authors released it."""
    return [name for name, fixes in RUNC_HOLES if not is_fixed(version, fixes)]
