"""The ipykernel itself, with what the service needs of it."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import zmq
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

from . import CHANNELS, SOCKET_DIRECTORY, file_requests
from .commands import run_command
from .failures import shortened, show_every_error
from .files import Files
from .interrupts import Interrupts
from .loops import allow_nested_run, wake_on_signals
from .streams import PIECE_CHARACTERS, Budget, Stream, release, size_of

LAST_WORDS_SECONDS = 0.05
"""How long ZeroMQ's own thread gets to send what was printed before `exit()`."""


def serve(listeners: dict[str, int], *, key: bytes, output_bytes: int) -> None:
    """Be an ipykernel on the listening sockets until the sandbox is destroyed."""
    # ipykernel makes these objects by their classes, so what they need is given to the classes.
    App.listeners = listeners
    Stream.budget = Kernel.budget = Budget(output_bytes)
    Kernel.files = Files(os.getcwd())
    config = Config()
    config.Session.key = key
    config.IPKernelApp.transport = "ipc"
    config.IPKernelApp.kernel_class = Kernel
    config.IPKernelApp.outstream_class = f"{Stream.__module__}.Stream"
    config.IPKernelApp.log_level = 50
    config.IPythonKernel._execute_sleep = 0
    config.IPCompleter.use_jedi = False
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.color_info = False
    app = App.instance(config=config)
    app.initialize([])
    # ipykernel asks the programs that code starts for colours; plain text was ordered.
    for variable in ("CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
        os.environ.pop(variable, None)
    os.environ["TERM"] = "dumb"
    shell = app.kernel.shell
    shell.system = shell.system_piped = run_command
    shell.ask_exit = app.kernel.leave
    show_every_error(shell, longest=min(output_bytes // 4, PIECE_CHARACTERS))
    app.session.pack = tolerant(app.session.pack)
    allow_nested_run()
    wake_on_signals()
    app.kernel.interrupts.hold()
    app.start()


class Kernel(IPythonKernel):
    """An ipykernel that takes files over its control channel and heals its streams before each run."""

    budget: Budget
    files: Files

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for request in file_requests.REQUESTS:
            self.control_handlers[request] = self.file_request
        self.own_streams = (sys.stdout, sys.stderr)
        self.process = os.getpid()
        self.interrupts = Interrupts()
        self.shell.display_pub.register_hook(self.publish_within_budget)
        self.shell.displayhook.register_hook(self.publish_within_budget)

    def file_request(self, stream: Any, ident: Any, parent: Any) -> None:
        content, buffers = file_requests.answer(self.files, parent)
        reply = parent["header"]["msg_type"].replace("_request", "_reply")
        self.session.send(stream, reply, content, parent, ident=ident, buffers=buffers)

    def publish_within_budget(self, message: Any) -> Any:
        """Let a display pass, or drop it and count what it weighed."""
        data = message["content"].get("data", {})
        size = sum(size_of(value) if isinstance(value, str) else len(repr(value)) for value in data.values())
        if self.budget.take(size):
            return message
        self.budget.left_out += size
        return None

    def _publish_execute_input(self, *_: Any) -> None:
        """Publish no echo of the code: nobody reads it, and it may be larger than any output."""

    async def do_execute(self, code: str, *arguments: Any, **options: Any) -> Any:
        self.budget.renew()
        self.heal_streams()
        reply = {"status": "error"}
        try:
            reply = await self.interruptible(code, *arguments, **options)
            if reply["status"] == "error":
                reply["traceback"] = []  # it was published; the reply need not carry it as well
                reply["evalue"] = shortened(reply["evalue"], 1000)
        # An interrupted `await`, or an interrupt beside the code: ipykernel would send no reply to either.
        except (asyncio.CancelledError, KeyboardInterrupt):
            return {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
        except Exception as error:  # noqa: BLE001 (a broken __str__, to which it would send none either)
            return {"status": "error", "ename": type(error).__name__, "evalue": "", "traceback": []}
        else:
            return reply
        finally:
            if os.getpid() != self.process:
                self.end_copy(is_ok=reply["status"] == "ok")
            self.heal_streams()
            release(self.budget, self.own_streams)

    async def interruptible(self, *arguments: Any, **options: Any) -> Any:
        """Have ipykernel run the code, and only that be interrupted."""
        try:
            try:
                self.interrupts.admit()
                return await super().do_execute(*arguments, **options)
            finally:
                self.interrupts.hold()
        except KeyboardInterrupt:
            self.interrupts.hold()  # it may have come just before the one above
            raise

    def set_parent(self, ident: Any, parent: Any, channel: str = "shell") -> None:
        if channel == "shell":  # a request has come, and is about to be called busy
            self.interrupts.forget()
        super().set_parent(ident, parent, channel)

    def pre_handler_hook(self) -> None:
        """Leave SIGINT alone, as below: ipykernel would have it raise in its own work before and after the code."""

    def post_handler_hook(self) -> None:
        pass

    def end_copy(self, *, is_ok: bool) -> None:
        """End a process that code forked, where its code ends: as a script's would, and not as a second kernel."""
        try:
            for stream in self.own_streams:
                stream.flush()
        finally:
            os._exit(0 if is_ok else 1)

    def heal_streams(self) -> None:
        """Put the session's own stdout and stderr back, whatever code has put there."""
        sys.stdout, sys.stderr = self.own_streams
        for stream in self.own_streams:
            stream.set_parent(self.get_parent())

    def leave(self) -> None:
        """End at once on `exit()`: the service sees it, and no later call meets a kernel that is about to go."""
        release(self.budget, self.own_streams)
        time.sleep(LAST_WORDS_SECONDS)
        os._exit(0)


class App(IPKernelApp):
    """An ipykernel application whose sockets exist already and which writes no file."""

    listeners: dict[str, int]

    def init_sockets(self) -> None:
        super().init_sockets()
        # The debugger's loop back to the shell socket would reconnect for ever where that has no path.
        self.debug_shell_socket.close()

    def _bind_socket(self, s: Any, port: int) -> int:
        if port <= len(CHANNELS):
            channel = CHANNELS[port - 1]
            s.setsockopt(zmq.USE_FD, self.listeners[channel])
            # No message may be dropped, `idle` least of all: what the service has not read yet waits
            # in this process, inside its own memory limit.
            s.sndhwm = 0
            if channel == "iopub":
                s.setsockopt(zmq.XPUB_VERBOSE, 1)  # a second service process is welcomed as the first was
            s.bind(f"ipc://{SOCKET_DIRECTORY}/{channel}")
        else:
            s.bind(f"inproc://unused-{port}")
        return port

    def init_connection_file(self) -> None:
        self.shell_port, self.iopub_port, self.control_port, self.stdin_port = 1, 2, 3, 4

    def write_connection_file(self, **_options: Any) -> None:
        pass

    def init_heartbeat(self) -> None:
        pass


def tolerant(pack: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return a packer that finds JSON for whatever code wants to show: lone surrogates, NaN, odd objects."""

    def pack_anything(content: Any) -> bytes:
        try:
            return pack(content)
        except (ValueError, TypeError):
            text = json.dumps(content, default=repr, ensure_ascii=False)
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()

    return pack_anything
