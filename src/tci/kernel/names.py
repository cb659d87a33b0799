"""Which names a file of a session may have."""

MAX_NAME_BYTES = 1024
"""Longest name that is written, with its directories."""

MAX_PART_BYTES = 200
"""Longest part of it; Linux allows 255."""

MAX_LINUX_NAME_BYTES, MAX_LINUX_PART_BYTES = 4095, 255
"""What code can write, and what so can be read."""


def fault_of(name: str, *, longest: int = MAX_NAME_BYTES, longest_part: int = MAX_PART_BYTES) -> str | None:
    """Say what is wrong with a name that could leave the working directory or that no file can have."""
    parts = name.split("/")
    if not name or "\0" in name or name.startswith("/"):
        return "must be a relative file name"
    if any(part in {"", ".", ".."} for part in parts):
        return "must stay inside the working directory, without '.', '..' or empty parts"
    try:
        too_long = len(name.encode()) > longest or any(len(part.encode()) > longest_part for part in parts)
    except UnicodeEncodeError:
        return "must be valid Unicode"
    return f"is longer than {longest} bytes, or one of its parts than {longest_part}" if too_long else None


def fault_of_existing(name: str) -> str | None:
    """Say what is wrong with a name that is only looked for."""
    return fault_of(name, longest=MAX_LINUX_NAME_BYTES, longest_part=MAX_LINUX_PART_BYTES)
