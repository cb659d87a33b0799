"""Shows outputs where a person or a program reads them: streams to streams, images to files, colour to terminals."""

import base64
import io
import mimetypes
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from typing_extensions import override

from tci.cli.caller import Shown

RED, PLAIN, WIPE = "\x1b[31m", "\x1b[0m", "\r\x1b[K"

COMMANDS = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
"""What commands a terminal beyond its colours: code that nobody trusts must not set the clipboard or the title."""


class Screen:
    """Writes to stdout and stderr; images go into a directory, if there is one."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._seconds: Seconds | None = None
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character must not end the run
                stream.reconfigure(errors="backslashreplace")

    def show(self, output: Shown) -> None:
        """Show one output."""
        self._end_progress()
        match output.type, output.data:
            case "stdout", str(text):
                _write(sys.stdout, text)
            case "stderr", str(text):
                _write(sys.stderr, text, colour=RED)
            case _, str(text):
                self.complain(text)
            case _, dict(bundle):
                _write(sys.stdout, f"{self._display(bundle)}\n")

    def complain(self, text: str) -> None:
        """Show what went wrong."""
        self._end_progress()
        _write(sys.stderr, f"{text}\n", colour=RED)

    def remark(self, text: str) -> None:
        """Say something by the way: to a person, not to a program."""
        self._end_progress()
        if sys.stderr.isatty():
            _write(sys.stderr, f"{text}\n")

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Count the seconds until something is shown, where a person looks."""
        if not sys.stderr.isatty():
            yield
            return
        self._seconds = Seconds()
        self._seconds.start()
        try:
            yield
        finally:
            self._end_progress()

    def _end_progress(self) -> None:
        if self._seconds is not None:
            self._seconds.end()
            self._seconds = None

    def _display(self, bundle: dict[str, object]) -> str:
        """Return a display as text: what was saved of it, else its own text, else what it is."""
        for mime, data in bundle.items():
            if mime.startswith("image/") and isinstance(data, str):
                return self._image(mime, data)
        text = bundle.get("text/plain")
        return text if isinstance(text, str) else f"[{', '.join(bundle)}]"

    def _image(self, mime: str, data: str) -> str:
        try:
            content = data.encode() if mime.endswith("+xml") else base64.b64decode(data)
            if self._directory is not None:
                return f"[{mime} saved as {_save(self._directory, mime, content)}]"
        except (ValueError, OSError) as error:  # code may call anything an image
            return f"[{mime} that could not be saved: {error}]"
        return f"[{mime}, {len(content)} bytes; --output DIR saves it]"


class Seconds(threading.Thread):
    """Counts on the terminal, until it ends and leaves no trace."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._is_over = threading.Event()

    @override
    def run(self) -> None:
        started = time.monotonic()
        is_shown = False
        while not self._is_over.wait(1):
            is_shown = True
            _write(sys.stderr, f"running, {time.monotonic() - started:.0f} s", before=WIPE)
        if is_shown:
            _write(sys.stderr, "", before=WIPE)

    def end(self) -> None:
        """Stop counting, so that something else can be written."""
        self._is_over.set()
        self.join()


def _write(stream: TextIO, text: str, *, colour: str = "", before: str = "") -> None:
    if stream.isatty():
        text = COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)
        if os.environ.get("NO_COLOR"):
            colour = ""
        if colour or "\x1b" in text:
            text = f"{colour}{text}{PLAIN}"
    stream.write(before + text)
    stream.flush()


def _save(directory: Path, mime: str, content: bytes) -> Path:
    """Write an image under the first free number; nothing is overwritten."""
    directory.mkdir(parents=True, exist_ok=True)
    ending = mimetypes.guess_extension(mime) or ".bin"
    number = 1
    while True:
        path = directory / f"image-{number}{ending}"
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            number += 1
        else:
            return path
