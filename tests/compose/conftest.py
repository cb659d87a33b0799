"""The whole of docker-compose.yml, built and brought up as an operator does it, under names of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tci.ids import new_api_key, random_text
from tests.conftest import ROOT, docker_answers, missing
from tests.sdk.conftest import run_example, sdk_cache, sdks  # noqa: F401 (fixtures, here on compose's service)

UP_SECONDS = 1500
"""For images and all: on a machine that has seen none of them."""

BACK_SECONDS = 90


@dataclass(frozen=True)
class Stack:
    """A project of docker compose that is up."""

    command: tuple[str, ...]
    project: str
    data: Path
    url: str
    key: str
    environment: dict[str, str]
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        object.__setattr__(self, "client", httpx.Client(base_url=self.url, timeout=120, headers=headers))

    def compose(self, *arguments: str) -> str:
        """Run docker compose and return what it printed."""
        command = [*self.command, "--project-name", self.project, *arguments]
        return said(command, self.environment)

    def inside(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's container."""
        return subprocess.run(
            ["docker", "exec", self.container(service), *command], capture_output=True, text=True, check=False
        )

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        labels = (f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}")
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        return said(["docker", "ps", "--all", "--quiet", *filters]).strip()

    def look(self, service: str, template: str) -> str:
        """Return what the engine says of a service's container."""
        return said(["docker", "inspect", "--format", template, self.container(service)]).strip()

    def crash(self, service: str) -> None:
        """Kill a service's first process: the engine takes `docker kill` for a stop that was wanted."""
        os.kill(int(self.look(service, "{{.State.Pid}}")), signal.SIGKILL)

    def run(self, code: str, session_id: str | None = None) -> dict[str, Any]:
        """Run code and return the answer's `data`."""
        answer = self.client.post("/tci/execute", json={"code": code, "language": "python", "session_id": session_id})
        assert answer.status_code == httpx.codes.OK, f"{answer.text}\n{self.compose('logs', '--tail=20')}"
        data: dict[str, Any] = answer.json()["data"]
        return data

    def eventually_runs(self, code: str, printed: str, session_id: str | None = None) -> bool:
        """Return whether code prints what it must, once what was killed is back."""
        give_up = time.monotonic() + BACK_SECONDS
        while time.monotonic() < give_up:
            try:
                body = {"code": code, "language": "python", "session_id": session_id}
                answer = self.client.post("/tci/execute", json=body)
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code == httpx.codes.OK and printed in str(answer.json()["data"]["outputs"]):
                return True
            assert answer.status_code != httpx.codes.NOT_FOUND, f"the session is lost: {answer.text}"
            time.sleep(0.2)
        return False


def said(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a command that must go well and return what it printed."""
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, f"{command}: {result.stdout[-3000:]}\n{result.stderr[-5000:]}"
    return result.stdout


def compose_command() -> tuple[str, ...]:
    """Return docker compose of either kind."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return "docker", "compose"
    if shutil.which("docker-compose") is None:
        missing("docker compose is not installed")
    return ("docker-compose",)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services, up and well; taken down without a trace afterwards."""
    if not docker_answers():
        missing("no Docker engine answers")
    command = compose_command()
    directory = tmp_path_factory.mktemp("compose")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project, key = f"tcitest{random_text(8).lower()}", new_api_key()
    env_file = directory / "env"
    given = {
        "TCI_ENV_FILE": str(env_file),
        "TCI_IMAGE": f"tci-test:{project}",
        "TCI_DATA": str(directory / "data"),
        "TCI_PORT": str(port),
        "TCI_BOOTSTRAP_API_KEY": key,
        # With a pool a new session would not need the door, whose death is to be noticed.
        "TCI_POOL_SIZE": "0",
        "TCI_CA_BUNDLE": os.environ.get("TCI_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or "/dev/null",
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "REDIS_PASSWORD": secrets.token_hex(24),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TCI_")}
    env_file.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    found = Stack(command, project, directory / "data", f"http://127.0.0.1:{port}", key, kept | given)
    said([str(ROOT / "docker" / "images")], found.environment)
    try:
        found.compose("up", "--detach")
        assert found.eventually_runs("print('up')", "up")
        yield found
        end_sessions(found)
    finally:
        found.client.close()
        found.compose("down", "--volumes", "--timeout", "20")
        said(["docker", "image", "rm", given["TCI_IMAGE"]])
    assert traces_of(found) == []


def end_sessions(stack: Stack) -> None:
    """End what is live: with a server database, sessions outlive the service."""
    listed = stack.inside("api", "tci", "sessions", "list")
    assert listed.returncode == 0, listed.stderr
    for line in listed.stdout.splitlines():
        ended = stack.inside("api", "tci", "sessions", "end", line.split("\t")[0])
        assert ended.returncode == 0, ended.stderr


def traces_of(stack: Stack) -> list[str]:
    """Return whatever is left of a project that was taken down."""
    label = f"label=com.docker.compose.project={stack.project}"
    left = said(["docker", "ps", "--all", "--quiet", "--filter", label]).split()
    left += said(["docker", "network", "ls", "--quiet", "--filter", label]).split()
    left += said(["docker", "volume", "ls", "--quiet", "--filter", label]).split()
    sandboxes = said(["docker", "ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.Mounts}}"]).splitlines()
    left += [sandbox for sandbox in sandboxes if f"{stack.data}/" in sandbox]
    return left + [str(path) for name in ("run", "keepers") for path in (stack.data / name).iterdir()]


@pytest.fixture(scope="session")
def live_service(stack: Stack) -> Stack:
    """What the SDK suite's examples run against, here."""
    return stack
