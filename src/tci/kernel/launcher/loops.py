"""The kernel's event loop: code may run one of its own, and an interrupt wakes it."""

import asyncio
import signal
import socket
from asyncio import events, tasks
from collections.abc import Callable
from typing import Any

from tornado.ioloop import IOLoop


def wake_on_signals() -> None:
    """Let an interrupt end an `await` at once: a loop that sleeps in the kernel does not see that a signal came."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    IOLoop.current().add_handler(reader, lambda *_: reader.recv(4096), IOLoop.READ)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)


def allow_nested_run() -> None:
    """Make `asyncio.run(main())` work although the kernel's own loop is running in this thread."""

    def outside_of_running_loop(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            loop = events._get_running_loop()
            if loop is None:
                return function(*arguments, **options)
            if arguments[0] is loop:  # `loop.run_until_complete(main())` on the loop that runs already
                return asyncio.run(*arguments[1:], **options)
            # The outer loop stands still while this cell runs, as for any other code; it only has to be
            # forgotten, with its task, for as long as the inner one runs.
            task = tasks.current_task(loop)
            if task is not None:
                tasks._leave_task(loop, task)
            events._set_running_loop(None)
            try:
                return function(*arguments, **options)
            finally:
                events._set_running_loop(loop)
                if task is not None:
                    tasks._enter_task(loop, task)

        call.__doc__, call.__name__ = function.__doc__, function.__name__
        return call

    asyncio.run = outside_of_running_loop(asyncio.run)
    asyncio.Runner.run = outside_of_running_loop(asyncio.Runner.run)
    base = asyncio.base_events.BaseEventLoop
    base.run_until_complete = outside_of_running_loop(base.run_until_complete)
