"""The program that becomes the kernel. It runs inside the sandbox, alone: nothing else of tci is there.

Four steps, in this order, each a function of its own:

1. `listen`: own the sockets on which the service reaches the kernel.
2. `drop_privileges`: give up every right for good, before a byte of the caller's code is read.
3. `preload`: import the usual libraries, so that the caller need not wait for them.
4. `serve`: be an ipykernel on those sockets.

Until step 2 is done only the standard library is imported: whatever runs with rights must be small.
"""

import contextlib
import ctypes
import errno
import importlib
import json
import os
import resource
import secrets
import shutil
import socket
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

CHANNELS = ("shell", "iopub", "control")
"""The channels that the service uses. stdin is never connected, the heartbeat not needed."""

SOCKET_DIRECTORY = "/run/tci"

CACHES = {"MPLCONFIGDIR": "/opt/tci/matplotlib", "NUMBA_CACHE_DIR": "/opt/tci/numba"}
"""What was prepared with the sandbox's files (see warm.py there), by the variable that says where it is wanted."""

PIECE_CHARACTERS = 128 * 1024
"""Longest text of one message, and what a stream holds before it publishes: below what the service parses, also where
each character becomes six bytes of JSON."""

LAST_WORDS_SECONDS = 0.05
"""How long ZeroMQ's own thread gets to send what was printed before `exit()`."""

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
"""prctl(2) options, from linux/prctl.h."""

CAPABILITY_V3 = 0x20080522
"""Version of the header of capset(2), from linux/capability.h."""


def main() -> None:
    """Become the kernel that the driver asked for in the variable TCI_LAUNCH (JSON)."""
    order = json.loads(os.environ.pop("TCI_LAUNCH"))
    listeners = listen(order.get("sockets"))
    limit_process(open_files=order["open_files"], data_bytes=order["data_bytes"])
    drop_privileges(order["uid"], order["gid"])
    preload(order["preload"])
    serve(listeners, key=order["key"].encode(), output_bytes=order["output_bytes"])


def listen(inherited: dict[str, int] | None) -> dict[str, int]:
    """Return a listening descriptor for each channel: the driver's own, or made here.

    Made here, they are root's in a directory that the session's user can't write, so code can neither
    replace a socket nor fill the host's disk through the mount.
    """
    if inherited is not None:
        return inherited
    descriptors = {}
    os.umask(0)
    for channel in CHANNELS:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"{SOCKET_DIRECTORY}/{channel}")
        listener.listen(64)
        descriptors[channel] = listener.detach()
    os.umask(0o022)
    return descriptors


def limit_process(*, open_files: int, data_bytes: int | None) -> None:
    """Bound what one process may open, and leave no core dump; inherited by all that code starts."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if data_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))


def drop_privileges(uid: int, gid: int) -> None:
    """Become an ordinary user for good, or exit: no capability in any set, no way to gain one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        last_capability = int(_read("/proc/sys/kernel/cap_last_cap"))
        for capability in range(last_capability + 1):
            # EPERM where CAP_SETPCAP was not given; the check below decides.
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        header = (ctypes.c_uint32 * 2)(CAPABILITY_V3, 0)
        libc.capset(header, (ctypes.c_uint32 * 6)())
        # A process that changed its uid may not read its own /proc entries; code may.
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    status = dict(line.split(":\t", 1) for line in _read("/proc/self/status").splitlines() if ":\t" in line)
    held = {name: value for name, value in status.items() if name.startswith("Cap") and int(value, 16)}
    # Without root there may be a bounding set, which only limits what could be gained, and nothing can.
    if os.getuid() != uid or status["NoNewPrivs"].strip() != "1" or held.keys() - {"CapBnd"}:
        sys.exit(f"launcher: privileges were not dropped: uid {os.getuid()}, {held}")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def preload(modules: list[str]) -> None:
    """Import modules for the caller; one that is not there is left out."""
    # Both libraries must be able to write where their caches are, so those are shown in a writable place.
    for variable, prepared in CACHES.items():
        if os.path.isdir(prepared) and not os.path.exists(os.environ[variable]):
            shutil.copytree(prepared, os.environ[variable], copy_function=os.symlink)
    # tqdm's word about a missing widget library is nothing that a caller did.
    warnings.filterwarnings("ignore", message="IProgress not found")
    # IPython's advice after sys.exit() is for people at a terminal.
    warnings.filterwarnings("ignore", message="To exit: use")
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


class Budget:
    """What one run may publish: beyond it, text is held back but for its end, and displays are dropped.

    The service has the same limit for itself, since code can undo this one. This one spares both sides the
    flood, and keeps messages below the size at which ZeroMQ would break the connection.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit
        self.left_out = 0
        self.held: deque[tuple[Any, Any, str]] = deque()
        """What was held back, in order: stream, parent header, text."""
        self._held_size = 0

    def renew(self) -> None:
        """Begin a run."""
        self.left, self.left_out, self._held_size = self.limit, 0, 0
        self.held.clear()

    def hold(self, stream: Any, parent: Any, piece: str) -> None:
        """Keep text for the end of the run, and drop the oldest if that is too much."""
        self.held.append((stream, parent, piece))
        self._held_size += _bytes(piece)
        while self._held_size > self.limit // 2:
            size = _bytes(self.held.popleft()[2])
            self._held_size -= size
            self.left_out += size

    def take(self, size: int) -> bool:
        """Return whether so many bytes may still be published, and count them."""
        fits = size <= self.left
        self.left -= size if fits else self.left
        return fits


def make_stream_class(budget: Budget) -> type:
    """Return ipykernel's stream class with a budget, whole characters from descriptors, and no way to close it."""
    import codecs
    import fcntl
    import select
    import struct
    import termios
    import threading

    from ipykernel.iostream import OutStream

    piece_characters = min(PIECE_CHARACTERS, max(budget.limit // 8, 1024))
    last_written: list[Any] = [None]

    class Stream(OutStream):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._pipe_lock = threading.RLock()
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._waiting = 0
            self._is_draining = False
            super().__init__(*arguments, **options)
            last_written[0] = self

        def close(self) -> None:
            """Stay open: code that closes its stdout must not close that of the calls that come after."""
            self.flush()

        def write(self, string: str) -> int | None:
            if not self._is_draining:  # what a program wrote to the descriptor before is published before
                self.drain()
            if last_written[0] is not self:  # what was written to the other stream before is published before
                last_written[0].flush()
                last_written[0] = self
            for start in range(0, len(string), piece_characters):
                super().write(string[start : start + piece_characters])
                self._waiting += min(piece_characters, len(string) - start)
                if self._waiting > piece_characters:
                    self.flush()  # rather than let the buffer grow until the next regular flush
            return len(string)

        def _watch_pipe_fd(self) -> None:
            """Pass on what programs and libraries write to descriptor 1 or 2."""
            while True:
                select.select([self._fid], [], [])
                self.drain()

        def drain(self) -> None:
            """Return once all that was written to the descriptor is in the stream."""
            # Under one lock with the watching thread: so nothing is between the pipe and the stream unseen.
            with self._pipe_lock:
                while (
                    not self._is_draining and struct.unpack("i", fcntl.ioctl(self._fid, termios.FIONREAD, b"\0" * 4))[0]
                ):
                    data = os.read(self._fid, 65536)
                    self._is_draining = True
                    try:
                        self.write(self._decoder.decode(data))
                    finally:
                        self._is_draining = False

        def _flush_buffers(self) -> Iterator[tuple[Any, str]]:
            self._waiting = 0
            for parent, text in super()._flush_buffers():
                for start in range(0, len(text), piece_characters):
                    piece = text[start : start + piece_characters]
                    if budget.take(_bytes(piece)):
                        yield parent, piece
                    else:
                        budget.hold(self, parent, piece)

    return Stream


def release(budget: Budget, streams: Iterable[Any]) -> None:
    """Publish what the streams still hold, what was held back, and how much was left out before that."""
    streams = list(streams)
    for stream in streams:
        stream.drain()
        stream.flush()
    held = list(budget.held) or ([(streams[0], streams[0].parent_header, "")] if budget.left_out else [])
    left_out = budget.left_out
    budget.renew()
    for stream, parent, piece in held:
        content, metadata = {"name": stream.name, "text": piece}, {"tci_left_out": left_out}
        stream.session.send(stream.pub_thread, "stream", content, parent=parent, ident=stream.topic, metadata=metadata)
        left_out = 0


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def serve(listeners: dict[str, int], *, key: bytes, output_bytes: int) -> None:
    """Be an ipykernel on the listening sockets until the sandbox is destroyed."""
    # The working directory counts before the installed libraries, as in any notebook: a file of the
    # caller's may shadow a module of his own code, and from here on nothing of ours is imported late.
    import asyncio

    import ipykernel.iostream
    import zmq
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelapp import IPKernelApp
    from traitlets.config import Config

    files = Files(os.getcwd())
    budget = Budget(output_bytes)

    class Kernel(IPythonKernel):
        """An ipykernel that takes files over its control channel and heals its streams before each run."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.control_handlers["put_request"] = self.put_request
            self.own_streams = (sys.stdout, sys.stderr)
            self.shell.display_pub.register_hook(self.publish_within_budget)
            self.shell.displayhook.register_hook(self.publish_within_budget)

        def put_request(self, stream: Any, ident: Any, parent: Any) -> None:
            """Write files; the content names them, the message's buffers hold their bytes."""
            try:
                for name, data in zip(parent["content"]["names"], parent["buffers"], strict=True):
                    files.put(name, data)
                content = {"status": "ok"}
            except Exception as error:  # noqa: BLE001 (whatever went wrong, the service must hear of it)
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                content = {"status": "error", "ename": type(error).__name__, "evalue": f"{name}: {reason}"}
            self.session.send(stream, "put_reply", content, parent, ident=ident)

        def publish_within_budget(self, message: Any) -> Any:
            """Let a display pass, or drop it and count what it weighed."""
            data = message["content"].get("data", {})
            size = sum(_bytes(value) if isinstance(value, str) else len(repr(value)) for value in data.values())
            if budget.take(size):
                return message
            budget.left_out += size
            return None

        async def do_execute(self, code: str, *arguments: Any, **options: Any) -> Any:
            budget.renew()
            self.heal_streams()
            try:
                reply = await super().do_execute(code, *arguments, **options)
                if reply["status"] == "error":
                    reply["traceback"] = []  # it was published; the reply need not carry it as well
                    reply["evalue"] = _shortened(reply["evalue"], 1000)
            except asyncio.CancelledError:  # an interrupted `await`, to which ipykernel would send no reply
                return {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            except Exception as error:  # noqa: BLE001 (a broken __str__, to which it would send none either)
                return {"status": "error", "ename": type(error).__name__, "evalue": "", "traceback": []}
            else:
                return reply
            finally:
                self.heal_streams()
                release(budget, self.own_streams)

        def heal_streams(self) -> None:
            """Put the session's own stdout and stderr back, whatever code has put there."""
            sys.stdout, sys.stderr = self.own_streams
            for stream in self.own_streams:
                stream.set_parent(self.get_parent())

        def leave(self) -> None:
            """End at once on `exit()`: the service sees it, and no later call meets a kernel that is about to go."""
            release(budget, self.own_streams)
            time.sleep(LAST_WORDS_SECONDS)
            os._exit(0)

    class App(IPKernelApp):
        """An ipykernel application whose sockets exist already and which writes no file."""

        def init_sockets(self) -> None:
            super().init_sockets()
            # The debugger's loop back to the shell socket would reconnect for ever where that has no path.
            self.debug_shell_socket.close()

        def _bind_socket(self, s: Any, port: int) -> int:
            if port <= len(CHANNELS):
                channel = CHANNELS[port - 1]
                s.setsockopt(zmq.USE_FD, listeners[channel])
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

    config = Config()
    config.Session.key = key
    config.IPKernelApp.transport = "ipc"
    config.IPKernelApp.kernel_class = Kernel
    config.IPKernelApp.log_level = 50
    config.IPythonKernel._execute_sleep = 0
    config.IPCompleter.use_jedi = False
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.color_info = False
    ipykernel.iostream.OutStream = make_stream_class(budget)  # IPKernelApp finds it by this name
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
    app.start()


def wake_on_signals() -> None:
    """Let an interrupt end an `await` at once: a loop that sleeps in the kernel does not see that a signal came."""
    import signal

    from tornado.ioloop import IOLoop

    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    IOLoop.current().add_handler(reader, lambda *_: reader.recv(4096), IOLoop.READ)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)


def show_every_error(shell: Any, *, longest: int) -> None:
    """Have every failure told as one `error` message of bounded length: IPython prints some, and chokes on others."""
    import traceback

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
        publish(kind, _shortened(text, 1000), [_shortened("\n".join(lines), longest)])

    shell.showtraceback, shell._showtraceback = showtraceback, publish_bounded
    shell.show_usage_error = lambda _error: None  # the reply says it, and the service shows that


def _is_printable(error: Any) -> bool:
    try:
        str(error)
    except Exception:  # noqa: BLE001 (a __str__ that raises)
        return False
    return True


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def tolerant(pack: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return a packer that finds JSON for whatever code wants to show: lone surrogates, NaN, odd objects."""

    def pack_anything(content: Any) -> bytes:
        try:
            return pack(content)
        except (ValueError, TypeError):
            text = json.dumps(content, default=repr, ensure_ascii=False)
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()

    return pack_anything


class Files:
    """The session's working directory, written through descriptors so that no planted link is followed.

    The functions are bound here, once: code may replace `os.open`, and uploads must still work.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._os = (os.open, os.close, os.mkdir, os.write, os.rename, os.unlink)

    def put(self, name: str, data: Any) -> None:
        """Write a file, whole or not at all; directories of its name are made, a file of its name replaced."""
        _open, _close, _mkdir, _write, rename, unlink = self._os
        *directories, base = name.split("/")
        with self._directory(directories) as directory:
            # Not to be guessed, and new: code could have put a pipe or a hard link there.
            temporary = f".{secrets.token_hex(16)}.part"
            descriptor = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=directory)
            try:
                try:
                    rest = memoryview(data).cast("B")
                    while rest:
                        rest = rest[_write(descriptor, rest) :]
                finally:
                    _close(descriptor)
                rename(temporary, base, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                unlink(temporary, dir_fd=directory)
                raise

    @contextlib.contextmanager
    def _directory(self, names: list[str]) -> Iterator[int]:
        _open, _close, _mkdir, *_ = self._os
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        current = _open(self._root, flags)
        try:
            for name in names:
                with contextlib.suppress(FileExistsError):
                    _mkdir(name, 0o755, dir_fd=current)
                try:
                    below = _open(name, flags | os.O_NOFOLLOW, dir_fd=current)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise NotADirectoryError(errno.ENOTDIR, f"{name!r} is not a directory") from None
                    raise
                _close(current)
                current = below
            yield current
        finally:
            _close(current)


def run_command(command: str) -> None:
    """Run `!command`: output as it comes on stdout, end-of-file on its input, its status in `_exit_code`.

    A pipe, not a terminal as in IPython: programs then print plain text, and none waits for an answer.
    """
    import signal
    import subprocess

    from IPython import get_ipython

    shell = get_ipython()
    process = subprocess.Popen(  # noqa: S602 (a shell is the point of `!`)
        shell.var_expand(command, depth=2),
        shell=True,
        executable="/bin/bash",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    try:
        for text in _decoded(process):
            sys.stdout.write(text)
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        shell.user_ns["_exit_code"] = process.wait()


def _decoded(process: Any) -> Iterator[str]:
    """Give a program's output as text until its shell has ended, CR LF as LF."""
    import codecs
    import select

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held = ""
    with process.stdout:
        while True:
            # A command left in the background keeps the pipe open: the shell's own end is what counts.
            if not select.select([process.stdout], [], [], 0.05)[0]:
                if process.poll() is None:
                    continue
                break
            data = process.stdout.read(65536)
            if not data:
                break
            text = held + decoder.decode(data)
            held = "\r" if text.endswith("\r") else ""  # its `\n` may be in the next piece
            yield text.removesuffix("\r").replace("\r\n", "\n")
    yield held + decoder.decode(b"", final=True)


def allow_nested_run() -> None:
    """Make `asyncio.run(main())` work although the kernel's own loop is running in this thread."""
    import asyncio
    from asyncio import events, tasks

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


if __name__ == "__main__":
    main()
