"""What an interrupt does: it ends the code that it was sent for, whenever it comes, and breaks nothing else.

ipykernel ignores one that comes before it is ready to run the code, and lets one that comes after the code end its own
work: the reply is then never sent.
"""

import signal
from typing import Any


class Interrupts:
    """Owns SIGINT, which raises KeyboardInterrupt in code and is kept for it while it has not begun."""

    def __init__(self) -> None:
        self._is_kept = False

    def forget(self) -> None:
        """A request has come; what came before it was for another."""
        self._is_kept = False

    def hold(self) -> None:
        """No code runs from here on, so that none is interrupted."""
        signal.signal(signal.SIGINT, self._keep)

    def admit(self) -> None:
        """Code runs from here on; raises KeyboardInterrupt if its interrupt has come already."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._is_kept:
            raise KeyboardInterrupt

    def _keep(self, *_: Any) -> None:
        self._is_kept = True
