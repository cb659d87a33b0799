"""Jupyter Kernel Gateway, over REST and its websocket."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from websockets.sync.client import ClientConnection, connect

from benchmarks.caller import PRINT
from tests.sandbox import processes

START_SECONDS = 60.0

CALL_SECONDS = 30.0
"""How long one message of a kernel, or one answer of the gateway, is waited for."""

STOP_SECONDS = 15.0


@dataclass
class GatewayKernel:
    """One of its kernels, and the websocket to it."""

    id: str
    connection: ClientConnection

    def run(self, code: str = PRINT, *, acknowledges: bool = False) -> str:
        """Run code and return what it printed; ends when both the reply and `idle` are here.

        The gateway holds a small message back until the one before it is acknowledged (Nagle), which Linux, as most
        clients use it, does after 40 ms. `acknowledges`: do so at once, as no usual client does.
        """
        request_id, awaited, stdout = uuid.uuid4().hex, {"execute_reply", "idle"}, ""
        self.connection.send(json.dumps(_request(request_id, code)))
        while awaited:
            if acknowledges:
                self.connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            message = json.loads(self.connection.recv(timeout=CALL_SECONDS))
            if message["parent_header"].get("msg_id") != request_id:
                continue
            content = message["content"]
            assert message["msg_type"] != "error", content
            if message["msg_type"] == "stream":
                stdout += content["text"]
            awaited -= {message["msg_type"], content.get("execution_state", "")}
        return stdout


@dataclass
class Gateway:
    """A running gateway."""

    client: httpx.Client
    port: int

    def new_kernel(self) -> GatewayKernel:
        """Start a kernel and connect to it."""
        kernel_id = self.client.post("/api/kernels", json={"name": "python3"}).raise_for_status().json()["id"]
        url = f"ws://127.0.0.1:{self.port}/api/kernels/{kernel_id}/channels"
        return GatewayKernel(kernel_id, connect(url, compression=None, open_timeout=CALL_SECONDS).__enter__())

    def end(self, kernel: GatewayKernel) -> None:
        """End a kernel."""
        kernel.connection.close()
        self.client.delete(f"/api/kernels/{kernel.id}").raise_for_status()


@contextmanager
def gateway(programs: Path) -> Iterator[Gateway]:
    """Run a gateway of the peers' environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [programs / "python", "-m", "kernel_gateway", "--port", str(port), "--KernelGatewayApp.log_level=ERROR"]
    with tempfile.TemporaryDirectory(prefix="tci-") as home, httpx.Client(base_url=url, timeout=CALL_SECONDS) as client:
        # Matplotlib's cache of fonts is to be there, as it is in our image.
        environment = os.environ | {"HOME": home, "OPENBLAS_NUM_THREADS": "1", "MPLCONFIGDIR": str(programs.parent)}
        log = Path(home) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, cwd=home, stdout=output, stderr=output)
        try:
            _wait_until_it_answers(client, process, log)
            yield Gateway(client, port)
        finally:
            _stop(process)


def _wait_until_it_answers(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            client.get("/api").raise_for_status()
        except httpx.TransportError:
            assert process.poll() is None, f"the gateway ended: {log.read_text()[-300:]}"
            assert time.monotonic() < give_up, f"the gateway does not answer: {log.read_text()[-300:]}"
            time.sleep(0.1)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it and its kernels, each of which is in a session of its own."""
    kernels = processes.children(process.pid)
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    finally:
        process.kill()
        process.wait()
        for kernel in kernels:
            with contextlib.suppress(ProcessLookupError):
                os.kill(kernel, signal.SIGKILL)


def _request(request_id: str, code: str) -> dict[str, object]:
    header = {"msg_id": request_id, "msg_type": "execute_request", "session": "bench", "username": "", "version": "5.4"}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    return {
        "channel": "shell",
        "header": header | {"date": "2026-01-01T00:00:00Z"},
        "parent_header": {},
        "metadata": {},
        "content": content,
    }
