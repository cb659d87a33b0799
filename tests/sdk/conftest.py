"""Fixtures of the compatibility suite: the installed SDKs, and one call that runs an example with any."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest

from .install import (
    HERE,
    InstallError,
    MissingToolError,
    cache_under,
    find_node,
    find_tool,
    install_python,
    install_typescript,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

EXAMPLES_FILE = HERE / "examples.json"
EXAMPLES: dict[str, list[dict[str, Any]]] = json.loads(EXAMPLES_FILE.read_text(encoding="utf-8"))
EXAMPLE_SECONDS = 240
# Proxies, a .netrc and the like would change what the clients send: they get only these, and a new HOME.
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class LiveService(Protocol):
    """A running server, from the suite's root conftest."""

    url: str
    key: str


def _require_all() -> bool:
    return os.environ.get("TCI_TEST_REQUIRE_ALL") == "1"


def _missing(reason: str) -> NoReturn:
    if _require_all():
        pytest.fail(f"{reason}, and TCI_TEST_REQUIRE_ALL=1 asks for all of them", pytrace=False)
    pytest.skip(f"{reason}; set TCI_TEST_REQUIRE_ALL=1 to make this a failure")


@dataclass
class Sdks:
    """The SDKs, each installed when it is first asked for."""

    cache: Path
    home: Path
    say: Callable[[str], None]
    _commands: dict[str, list[str]] = field(default_factory=dict)
    _absent: dict[str, str] = field(default_factory=dict)

    def _try(self, sdk: str) -> None:
        if sdk not in self._commands and sdk not in self._absent:
            try:
                self._commands[sdk] = self._prepare(sdk)
            except (MissingToolError, InstallError, subprocess.SubprocessError, OSError) as failure:
                self._absent[sdk] = str(failure)

    def command(self, sdk: str) -> list[str]:
        """Give the start of the command that runs one SDK's script."""
        self._try(sdk)
        if sdk in self._absent:
            _missing(f"{sdk} cannot run here: {self._absent[sdk]}")
        return self._commands[sdk]

    def present(self, wanted: Sequence[str]) -> list[str]:
        """Give those of the SDKs that can run here, and skip the test if none can."""
        for sdk in wanted:
            self._try(sdk)
        absent = [f"{sdk} ({self._absent[sdk]})" for sdk in wanted if sdk in self._absent]
        if len(absent) == len(wanted) or (absent and _require_all()):
            _missing(f"cannot run here: {', '.join(absent)}")
        return [sdk for sdk in wanted if sdk in self._commands]

    def _prepare(self, sdk: str) -> list[str]:
        if sdk == "curl":
            return [find_tool("curl")]
        if sdk == "typescript":
            return [find_node(), str(install_typescript(self.cache, self.say))]
        if sdk == "python-1x":
            return [str(install_python(self.cache, "1x", self.say)), str(HERE / "client_1x.py")]
        script = "client_2x_async.py" if sdk == "python-2x-async" else "client_2x.py"
        return [str(install_python(self.cache, "2x", self.say)), str(HERE / script)]

    def run(self, sdk: str, example: str, base_url: str, key: str) -> dict[str, Any]:
        """Run one of the documentation's examples and give what its user would have seen."""
        command = self.command(sdk)
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        environment |= {
            "HOME": str(self.home),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TOGETHER_BASE_URL": base_url,
            "TOGETHER_API_KEY": key,
            "TOGETHER_NO_BANNER": "1",
        }
        if sdk == "curl":
            return _run_curl(command, example, base_url, environment)
        options = ["--strict"] if sdk == "python-2x-strict" else []
        out = _capture([*command, str(EXAMPLES_FILE), example, *options], environment)
        seen: dict[str, Any] = json.loads(out.splitlines()[-1])
        return seen


def _capture(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=EXAMPLE_SECONDS
    )
    if done.returncode != 0:
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stderr[-6000:]}", pytrace=False)
    return done.stdout


def _run_curl(curl: list[str], example: str, base_url: str, environment: dict[str, str]) -> dict[str, Any]:
    """Send the example's requests as the documentation's curl commands do."""
    seen: dict[str, Any] = {"version": None, "calls": [], "printed": [], "sessions": None, "error": None}
    session_id = None
    for step in EXAMPLES[example]:
        command = [*curl, "-sS", "-w", "\n%{http_code} %{content_type}"]
        if step.get("list_sessions"):
            command += ["-X", "GET", f"{base_url}/tci/sessions"]
        else:
            body = {"language": "python", **step}
            if body.pop("same_session", False):
                body["session_id"] = session_id
            command += ["-X", "POST", f"{base_url}/tci/execute", "-d", json.dumps(body)]
        command += ["-H", f"Authorization: Bearer {environment['TOGETHER_API_KEY']}"]
        command += ["-H", "Content-Type: application/json"]
        text, _, last = _capture(command, environment).rpartition("\n")
        status, _, content_type = last.partition(" ")
        assert content_type.split(";")[0] == "application/json"
        answer = json.loads(text)
        if status != "200":
            seen["error"] = {
                "type": f"HTTP {status}",
                "status": int(status),
                "message": answer["error"]["message"],
            }
            return seen
        if step.get("list_sessions"):
            seen["sessions"] = {"errors": answer["errors"], "sessions": answer["data"]["sessions"]}
            continue
        data = answer["data"]
        session_id = data["session_id"]
        seen["calls"].append(
            {
                "session_id": session_id,
                "status": data["status"],
                "errors": answer["errors"],
                "outputs": [{"type": output["type"], "data": output["data"]} for output in data["outputs"]],
            }
        )
        seen["printed"].append(f"Status: {data['status']}")
        seen["printed"] += [f"{output['type']}: {output['data']}" for output in data["outputs"]]
    return seen


@pytest.fixture(scope="session")
def sdk_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory that the SDKs are installed in: this run's own unless TCI_TEST_CACHE names one."""
    named = os.environ.get("TCI_TEST_CACHE")
    return cache_under(named) if named else tmp_path_factory.mktemp("sdk")


@pytest.fixture(scope="session")
def sdks(sdk_cache: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Sdks:
    """Give the vendor's SDKs."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")

    def say(line: str) -> None:
        if reporter is not None:
            reporter.write_line(f"[sdk] {line}")

    return Sdks(cache=sdk_cache, home=tmp_path_factory.mktemp("home"), say=say)


@pytest.fixture
def run_example(sdks: Sdks, live_service: LiveService) -> Callable[..., dict[str, Any]]:
    """Give a function that runs an example with an SDK against the live service."""

    def run(sdk: str, example: str, *, form: str | None = None, key: str | None = None) -> dict[str, Any]:
        # The SDKs' own default ends in /v1; the documentation's curl commands have no prefix.
        prefix = form if form is not None else ("" if sdk == "curl" else "/v1")
        return sdks.run(sdk, example, live_service.url.rstrip("/") + prefix, live_service.key if key is None else key)

    return run
