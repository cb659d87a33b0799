"""Policy `packages`, the default: pip works, nothing else does, and the refusal says why."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import KEY, Service, file_of, serving
from tests.sandbox.processes import eventually

GET = """
import requests
try: print(requests.get({url!r}, timeout=20).status_code)
except Exception as error: print(error)
"""


def get(service: Service, url: str, session: str | None = None) -> str:
    """Return what code gets from a URL: a status, or the text of the exception."""
    return service.stdout(GET.format(url=url), session)


def squid_pid(service: Service) -> int | None:
    try:
        return int((service.data_dir / "egress" / "squid.pid").read_text())
    except (OSError, ValueError):
        return None


@pytest.mark.parametrize("options", ["", "--no-binary :all: "], ids=["wheel", "source"])
def test_installed_package_can_be_imported_and_nothing_is_on_stderr(service: Service, options: str) -> None:
    data = service.run(f"!pip install {options}cowsay\nimport cowsay\nprint(cowsay.get_output_string('cow', 'moo'))")
    assert [output["type"] for output in data["outputs"]] == ["stdout"], data["outputs"]
    assert "Successfully installed cowsay" in data["outputs"][0]["data"]
    assert "| moo |" in data["outputs"][0]["data"]


def test_package_of_one_session_is_not_in_another(service: Service) -> None:
    service.run("!pip install cowsay")
    assert "ModuleNotFoundError" in service.run("import cowsay")["outputs"][0]["data"]


@pytest.mark.parametrize("url", ["https://example.com/", "http://example.com/", "https://1.1.1.1/"])
def test_other_host_is_refused_within_seconds_by_a_sentence_that_names_the_policy(service: Service, url: str) -> None:
    began = time.monotonic()
    code = f"import requests\nanswer = requests.get({url!r})\nprint(answer.status_code, answer.reason)"
    data = service.run(code)
    assert time.monotonic() - began < 15
    said = data["outputs"][-1]["data"]
    assert "403" in said
    assert "egress policy 'packages'" in said


def test_pip_from_another_host_fails_within_seconds_and_names_the_policy(service: Service) -> None:
    began = time.monotonic()
    said = service.stdout("!pip install --index-url https://example.com/simple nothing-of-this-name")
    assert time.monotonic() - began < 20
    assert "egress policy 'packages'" in said


def test_names_are_resolved_by_the_proxy_alone(service: Service) -> None:
    data = service.run("import socket\nsocket.getaddrinfo('pypi.org', 443)")
    assert "gaierror" in data["outputs"][0]["data"]


def test_killed_proxy_is_started_again_and_the_session_goes_on(start_service: Callable[..., Service]) -> None:
    service = start_service()
    session = service.run("kept = 1")["session_id"]
    assert get(service, "https://pypi.org/simple/cowsay/", session) == "200\n"
    first = squid_pid(service)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: squid_pid(service) not in {None, first})
    assert eventually(lambda: get(service, "https://pypi.org/simple/cowsay/", session) == "200\n", 20)
    assert service.stdout("print(kept)", session) == "1\n"


def test_session_finds_its_way_out_again_after_the_service_was_killed(driver: str, tmp_path: Path) -> None:
    with serving(driver, tmp_path / "data") as service:
        session = service.run("kept = 1")["session_id"]
        first = squid_pid(service)
        service.client.close()
        service.process.kill()
        service.process.wait()
    with serving(driver, tmp_path / "data") as service:
        assert service.stdout("print(kept)", session) == "1\n"
        assert eventually(lambda: get(service, "https://pypi.org/simple/cowsay/", session) == "200\n", 20)
        assert squid_pid(service) != first
        gone = eventually(lambda: not Path(f"/proc/{first}").exists())
        assert gone, "the killed service's Squid was left behind"


def test_proxy_ends_with_the_service(driver: str, tmp_path: Path) -> None:
    with serving(driver, tmp_path / "data") as service:
        assert eventually(lambda: squid_pid(service) is not None)
        pid = squid_pid(service)
    assert not Path(f"/proc/{pid}").exists()


def test_policy_none_lets_nothing_out_and_says_so(start_service: Callable[..., Service]) -> None:
    service = start_service(egress="none")
    said = service.stdout("!pip install cowsay")
    assert "egress policy 'none'" in said
    assert "egress policy 'none'" in get(service, "https://pypi.org/")
    assert squid_pid(service) is None
    assert service.stdout("import os\nprint(os.path.exists('/run/tci/egress'))") == "False\n"


def test_key_narrows_what_its_sessions_reach(service: Service) -> None:
    key = service.tci("keys", "create", "--account", "narrow", "--egress", "none").stdout.strip()
    answer = httpx.post(
        f"{service.url}/tci/execute",
        headers={"Authorization": f"Bearer {key}"},
        json={"code": GET.format(url="https://pypi.org/")},
        timeout=60,
    )
    assert "egress policy 'none'" in answer.json()["data"]["outputs"][0]["data"]
    assert "none" in next(line for line in service.tci("keys", "list").stdout.splitlines() if "narrow" in line)


def test_key_can_not_widen_what_the_service_allows(service: Service) -> None:
    key = service.tci("keys", "create", "--account", "wide", "--egress", "open").stdout.strip()
    assert key != KEY
    answer = httpx.post(
        f"{service.url}/tci/execute",
        headers={"Authorization": f"Bearer {key}"},
        json={"code": GET.format(url="https://example.com/")},
        timeout=60,
    )
    assert "egress policy 'packages'" in answer.json()["data"]["outputs"][0]["data"]


def test_files_in_the_gate_s_directory_can_not_be_changed(service: Service) -> None:
    code = """
import os
def attempt(action):
    try: action()
    except OSError as error: return type(error).__name__
    return "worked"
for action in (
    lambda: open("/run/tci/egress/x", "w"),
    lambda: os.unlink("/run/tci/egress/proxy"),
    lambda: os.rename("/run/tci/egress/proxy", "/run/tci/egress/other"),
    lambda: os.chmod("/run/tci/egress", 0o777),
    lambda: os.symlink("/etc/passwd", "/run/tci/egress/link"),
):
    print(attempt(action))
"""
    assert "worked" not in service.run(code, files=[file_of("x", "")])["outputs"][0]["data"]
