"""Kernels that lie about files."""

import json
from pathlib import Path
from typing import Any

from typing_extensions import override

from tests.kernel.hostile import MIB, HonestKernel, header_of, signed

NOW = 1_700_000_000_000_000


def entry(**fields: Any) -> dict[str, Any]:
    """Return what an honest launcher would say of a file, but for some fields."""
    return {"name": "f", "size": 5, "modified": NOW, "type": "file", **fields}


def found(**fields: Any) -> dict[str, Any]:
    """Return what an honest launcher would answer a request for a file, but for some fields of its entry."""
    return {"status": "ok", "version": "1:2", "file": entry(**fields)}


class FilesKernel(HonestKernel):
    """Answers every request for files with the same content and buffers."""

    def __init__(self, directory: Path, key: str, content: Any, buffers: list[bytes]) -> None:
        super().__init__(directory, key)
        self.content, self.buffers = content, buffers
        self.asked: list[str] = []

    @override
    def on_control(self, identity: bytes, parent: dict[str, Any]) -> None:
        self.asked.append(parent["msg_type"])
        frames = signed(self.key, header_of("reply"), parent, self.content)
        self.send_frames(self.control, [identity, *frames, *self.buffers])


LISTS: dict[str, list[bytes]] = {
    "nothing": [],
    "no_json": [b"\xff"],
    "empty": [b""],
    "object": [b"{}"],
    "two": [b"[]", b"[]"],
    "wrong_entry": [b"[5]"],
    "missing_field": [json.dumps([{"name": "f"}]).encode()],
    "name_number": [json.dumps([entry(name=5)]).encode()],
    "name_surrogate": [b'[{"name":"\\ud800","size":1,"modified":1,"type":"file"}]'],
    "size_negative": [json.dumps([entry(size=-1)]).encode()],
    "size_huge": [json.dumps([entry(size=2**63)]).encode()],
    "size_text": [json.dumps([entry(size="5")]).encode()],
    "size_digits": [b'[{"name":"f","size":' + b"9" * 100_000 + b',"modified":1,"type":"file"}]'],
    "time_huge": [json.dumps([entry(modified=2**63)]).encode()],
    "type_unknown": [json.dumps([entry(type="door")]).encode()],
    "too_many": [json.dumps([entry()] * 5001).encode()],
    "deep": [b"[" * 500_000],
    "many_lists": [b"[" + b"[]," * 250_000 + b"[]]"],
    "too_large": [b" " * 2 * MIB],
}
"""Buffers of an answer to `list_request` that are no list of files."""

CONTENTS: dict[str, Any] = {
    "not_an_object": [],
    "empty": {},
    "no_file": {"status": "ok", "version": "1:2"},
    "file_text": {"status": "ok", "version": "1:2", "file": "f"},
    "no_version": {"status": "ok", "file": entry()},
    "version_number": {"status": "ok", "version": 5, "file": entry()},
    "version_long": {"status": "ok", "version": "v" * 65, "file": entry()},
    "size_negative": found(size=-1),
    "size_true": found(size=True),
    "size_float": found(size=5.5),
    "type_directory": found(type="directory"),
    "type_list": found(type=["file"]),
    "time_text": found(modified="now"),
    "status_list": {"status": ["ok"]},
    "error_without_reason": {"status": "error", "errno": 2},
    "error_number_list": {"status": "error", "errno": [28], "evalue": "full"},
    "error_reason_number": {"status": "error", "errno": 28, "evalue": 5},
    "large": {"status": "ok", "version": "1:2", "file": entry(), "more": "x" * 100_000},
}
"""Contents of an answer about one file that are none."""
