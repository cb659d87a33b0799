"""docker-compose.yml on this machine: the documentation's examples, what a part may reach, parts that are killed."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.compose.conftest import UP_SECONDS, Stack
from tests.sdk import test_documentation_examples as examples

pytestmark = [pytest.mark.timeout(UP_SECONDS), pytest.mark.xdist_group("compose")]

SERVICES = ("postgres", "redis", "egress", "door", "api")

Run = Callable[..., dict[str, Any]]

CONNECT = "exec 3<>/dev/tcp/{}/{}"


def test_documentation_examples_run(stack: Stack, run_example: Run) -> None:
    """By curl, as the documentation has them."""
    examples.test_hello_world_prints_what_the_documentation_prints("curl", "", run_example)
    examples.test_variable_set_in_first_call_is_there_in_second("curl", run_example)
    examples.test_text_file_is_read_by_code("curl", run_example)
    examples.test_script_in_files_runs_from_shell("curl", "script_file_base64", run_example)
    examples.test_plot_comes_back_as_png("curl", run_example)
    examples.test_code_that_raises_gives_error_output("curl", run_example)
    examples.test_open_session_is_listed_with_five_fields("curl", "/v1", run_example)
    examples.test_unknown_session_raises_not_found("curl", "", run_example, stack)


def test_execution_is_measured(stack: Stack) -> None:
    execution = stack.run("block = bytearray(100_000_000); sum(range(5_000_000))")["execution"]
    assert execution["cpu_ms"] > 10
    assert 100_000_000 < execution["peak_memory_bytes"] < 1_000_000_000


def test_package_is_installed_through_the_egress(stack: Stack) -> None:
    code = "!pip install cowsay\nimport cowsay\nprint(cowsay.get_output_string('cow', 'moo'))"
    assert "| moo |" in str(stack.run(code)["outputs"])


def test_sandbox_reaches_no_neighbour_by_the_egress(stack: Stack) -> None:
    code = """
import requests
for host in ("postgres:5432", "redis:6379", "api:8000", "169.254.169.254", "10.0.0.1"):
    print(requests.get(f"http://{host}/").status_code)
"""
    assert stack.run(code)["outputs"][0]["data"].split() == ["403"] * 5


@pytest.mark.parametrize("service", SERVICES)
def test_service_has_no_right_that_it_does_not_need(stack: Stack, service: str) -> None:
    status = stack.inside(service, "cat", "/proc/1/status").stdout
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    needed = {"door": 0b1011}.get(service, 0)  # chown, dac_override, fowner
    assert [int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [needed] * 3
    assert fields["NoNewPrivs"] == "1"
    assert (fields["Uid"].split()[0] == "0") == (service == "door")
    assert stack.look(service, "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Privileged}}") == "true false"


def test_engine_is_the_doors_alone(stack: Stack) -> None:
    for service in SERVICES:
        has_socket = stack.inside(service, "test", "-S", "/var/run/docker.sock").returncode == 0
        assert has_socket == (service == "door")
    ask = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", "/run/door/engine.sock")
    assert stack.inside("api", *ask, "http://door/_ping").stdout == "200"
    for path in ("containers/json", "images/json", f"containers/{stack.container('postgres')}/json"):
        assert stack.inside("api", *ask, f"http://door/v1.41/{path}").stdout == "403"
    assert stack.inside("egress", "test", "-e", "/run/door").returncode != 0


def test_egress_reaches_no_database(stack: Stack) -> None:
    address = stack.look("postgres", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    assert stack.inside("api", "timeout", "5", "bash", "-c", CONNECT.format(address, 5432)).returncode == 0
    assert stack.inside("egress", "timeout", "5", "bash", "-c", CONNECT.format(address, 5432)).returncode != 0
    assert stack.inside("egress", "getent", "hosts", "postgres").returncode != 0


def test_only_the_api_is_published_on_the_loopback(stack: Stack) -> None:
    published = {service: stack.look(service, "{{json .HostConfig.PortBindings}}") for service in SERVICES}
    assert '"HostIp":"127.0.0.1"' in published.pop("api")
    assert set(published.values()) <= {"{}", "null"}


@pytest.mark.parametrize("service", SERVICES)
def test_session_survives_the_death_of_a_part(stack: Stack, service: str) -> None:
    session = stack.run("kept = 'still here'")["session_id"]
    before = int(stack.look(service, "{{.RestartCount}}"))
    stack.crash(service)
    assert stack.eventually_runs("print(kept)", "still here", session)
    assert stack.eventually_runs("print('a new one')", "a new one")
    fetch = "import requests; print(requests.get('https://pypi.org/simple/cowsay/').status_code)"
    assert stack.eventually_runs(fetch, "200", session)
    assert int(stack.look(service, "{{.RestartCount}}")) > before
