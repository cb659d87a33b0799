"""Every failure as one `error` message of bounded length."""

import sys
import traceback
from typing import Any


def show_every_error(shell: Any, *, longest: int) -> None:
    """Have every failure told as one `error` message of bounded length: IPython prints some, and chokes on others."""
    show, publish = shell.showtraceback, shell._showtraceback

    def showtraceback(exc_tuple: Any = None, *arguments: Any, **options: Any) -> None:
        kind, value, trace = exc_tuple or sys.exc_info()
        if kind is not None and (issubclass(kind, BaseExceptionGroup) or not _is_printable(value)):
            lines = [line.rstrip("\n") for line in traceback.format_exception(kind, value, trace)]
            shell._last_traceback = lines
            publish_bounded(kind, value, lines)
        else:
            show(exc_tuple, *arguments, **options)

    def publish_bounded(kind: Any, value: Any, lines: list[str]) -> None:
        text = str(value) if _is_printable(value) else "<unprintable>"
        publish(kind, shortened(text, 1000), [shortened("\n".join(lines), longest)])

    shell.showtraceback, shell._showtraceback = showtraceback, publish_bounded
    shell.show_usage_error = lambda _error: None  # the reply says it, and the service shows that


def _is_printable(error: Any) -> bool:
    try:
        str(error)
    except Exception:  # noqa: BLE001 (a __str__ that raises)
        return False
    return True


def shortened(text: str, longest: int) -> str:
    """Return a text without its middle where it is too long."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
