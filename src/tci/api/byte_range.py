"""Which bytes of a file a request asks for (RFC 9110, section 14)."""

import re

from tci.errors import RangeNotSatisfiable
from tci.kernel.files import FileInfo

ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


def etag_of(info: FileInfo) -> str:
    """Return what changes with the file's bytes, as far as its time and size tell."""
    return f'"{int(info.modified_at.timestamp() * 1_000_000):x}-{info.size:x}"'


def wanted(info: FileInfo, asked: str | None, if_range: str | None) -> range | None:
    """Return the range that is asked for, or None for the whole file; raises RangeNotSatisfiable.

    Several ranges, and what is none, mean the whole file, as does a range of a version that is not there any more.
    """
    found = ONE_RANGE.fullmatch(asked.strip()) if asked else None
    if found is None or (if_range and if_range != etag_of(info)):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        start, end = max(0, info.size - int(last)), info.size
    else:
        start, end = int(first), min(int(last) + 1, info.size) if last else info.size
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(info.size)
    return range(start, end)
