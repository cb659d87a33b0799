"""The control channel's messages about files, answered beside the code that runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from sys import getswitchinterval, setswitchinterval
from typing import Any

from .files import Files

TURN_SECONDS = 0.0001
"""How long code keeps Python to itself while a file is reached. Each call of the system gives it away, and with the
usual 5 ms a list of thousands of files would take as many turns of that beside code that computes."""

Answer = tuple[dict[str, Any], list[bytes]]
"""The content of a reply, and its buffers."""


def put(files: Files, content: Any, buffers: Any) -> Answer:
    """Write small files, each whole; the buffers hold their bytes."""
    for name, data in zip(content["names"], buffers, strict=True):
        try:
            files.put(name, data)
        except OSError as error:
            raise OSError(error.errno, f"{name}: {error.strerror}") from error
    return {}, []


def put_part(files: Files, content: Any, buffers: Any) -> Answer:
    """Write a part of a file."""
    found = files.put_part(
        content["name"], content["token"], buffers[0], start=content["start"], is_last=content["is_last"]
    )
    return {"file": found}, []


def drop(files: Files, content: Any, _buffers: Any) -> Answer:
    """Forget a file of which only parts have come."""
    files.drop(content["token"])
    return {}, []


def get(files: Files, content: Any, _buffers: Any) -> Answer:
    """Send a piece of a file; of no length where only its entry is asked for."""
    found, version, piece = files.get(
        content["name"], start=content["start"], length=content["length"], version=content["version"]
    )
    return {"file": found, "version": version}, [piece]


def list_all(files: Files, _content: Any, _buffers: Any) -> Answer:
    """Send a list; in a buffer, since the service parses no content of this size."""
    listed, is_complete = files.listing()
    return {"is_complete": is_complete}, [listed]


def delete(files: Files, content: Any, _buffers: Any) -> Answer:
    """Remove a file."""
    files.delete(content["name"])
    return {}, []


REQUESTS: dict[str, Callable[[Files, Any, Any], Answer]] = {
    "put_request": put,
    "put_part_request": put_part,
    "drop_request": drop,
    "get_request": get,
    "list_request": list_all,
    "delete_request": delete,
}


def answer(files: Files, message: Any) -> Answer:
    """Do what a message asks for; whatever goes wrong, the service must hear of it."""
    try:
        with short_turns():
            content, buffers = REQUESTS[message["header"]["msg_type"]](files, message["content"], message["buffers"])
    except Exception as error:  # noqa: BLE001
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        number = error.errno if isinstance(error, OSError) else None
        return {"status": "error", "ename": type(error).__name__, "evalue": reason, "errno": number}, []
    return {"status": "ok", **content}, buffers


@contextmanager
def short_turns() -> Iterator[None]:
    """Have the threads of the kernel take shorter turns."""
    usual = getswitchinterval()
    setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        setswitchinterval(usual)
