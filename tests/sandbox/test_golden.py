"""The two jails as data, compared with files: a change of the lockdown is seen in review.

`TCI_REFRESH_GOLDEN=1 pytest tests/sandbox/test_golden.py` writes the files anew.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tci.sandbox.bubblewrap_spec import Descriptors, Host, bwrap_arguments, environment
from tci.sandbox.docker_spec import Confinement, container_config
from tci.sandbox.driver import Limits, SandboxSpec

GOLDEN = Path(__file__).parent / "golden"

SPEC = SandboxSpec(
    sandbox_id="sbx_golden",
    deployment="deployment1",
    socket_directory=Path("/data/run/sbx_golden"),
    kernel_key="key",
    limits=Limits(
        memory_bytes=2 * 1024**3,
        cpus=1.5,
        pids=256,
        disk_bytes=1024**3,
        inodes=100_000,
        shm_bytes=64 * 1024**2,
        open_files=1024,
        output_bytes=16 * 1024**2,
    ),
    preload=("numpy",),
    egress_directory=Path("/data/run/sbx_golden/egress"),
    has_ca=True,
    pip_index_url="https://index.example/simple",
)

HOST = Host(
    bwrap=Path("/usr/bin/bwrap"),
    is_root=True,
    python=Path("/opt/python/bin/python3.11"),
    prefix=Path("/opt/python"),
    site_packages=Path("/opt/python/lib/python3.11/site-packages"),
    hidden=(Path("/usr/lib/python3/dist-packages"),),
    environment=Path("/data/environments/abc"),
    launcher=Path("/src/launcher"),
)

DESCRIPTORS = Descriptors(info=9, block=10, seccomp=11)

ALIASES = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Links into /usr, which differ from one Debian to the next."""


def test_container_config_is_the_golden_one() -> None:
    config = container_config(SPEC, image="tci-sandbox:golden", confinement=Confinement(seccomp="{PROFILE}"))
    config["Env"].sort()
    compare("container_config", config)


def test_container_config_names_the_runtime_that_is_set() -> None:
    runsc = Confinement(seccomp="{}", runtime="runsc")
    assert container_config(SPEC, image="x", confinement=runsc)["HostConfig"]["Runtime"] == "runsc"
    plain = Confinement(seccomp="{}")
    assert "Runtime" not in container_config(SPEC, image="x", confinement=plain)["HostConfig"]


def test_container_config_names_the_apparmor_profile_that_is_set() -> None:
    confinement = Confinement(seccomp="{}", apparmor="tci")
    options = container_config(SPEC, image="x", confinement=confinement)["HostConfig"]["SecurityOpt"]
    assert options == ["no-new-privileges", "seccomp={}", "apparmor=tci"]


@pytest.mark.parametrize(("name", "is_root"), [("bwrap_root", True), ("bwrap_user", False)])
def test_bwrap_arguments_are_the_golden_ones(name: str, is_root: bool) -> None:
    arguments = bwrap_arguments(SPEC, host=host(is_root=is_root), descriptors=DESCRIPTORS)
    compare(name, by_option(arguments))


def test_bwrap_arguments_share_no_host_directory_for_writing() -> None:
    for is_root in (True, False):
        arguments = bwrap_arguments(SPEC, host=host(is_root=is_root), descriptors=DESCRIPTORS)
        assert {"--bind", "--bind-try", "--dev-bind", "--dev-bind-try", "--share-net"}.isdisjoint(arguments)
        shown = [argument for argument in arguments if argument.startswith(str(SPEC.socket_directory))]
        assert shown == [str(SPEC.egress_directory)], "the gate and nothing else"


def test_environment_is_the_golden_one() -> None:
    compare(
        "bwrap_environment",
        environment(SPEC, listeners={"shell": 5, "iopub": 6, "control": 7}, limit_data=False, limit_processes=False),
    )


def test_environment_limits_each_process_where_no_control_group_limits_all() -> None:
    found = environment(SPEC, listeners={}, limit_data=True, limit_processes=True)
    order = json.loads(found["TCI_LAUNCH"])
    assert (order["data_bytes"], order["processes"]) == (SPEC.limits.memory_bytes, SPEC.limits.pids)


def compare(name: str, found: Any) -> None:
    """Compare with a golden file, or write it where that is asked for."""
    file = GOLDEN / f"{name}.json"
    text = json.dumps(found, indent=2, sort_keys=isinstance(found, dict)) + "\n"
    if os.environ.get("TCI_REFRESH_GOLDEN") == "1":
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), f"{name} differs; TCI_REFRESH_GOLDEN=1 accepts the change"


def host(*, is_root: bool) -> Host:
    """Return the host, started by root or not."""
    fields = {name: getattr(HOST, name) for name in Host.__slots__}
    return Host(**fields | {"is_root": is_root})


def by_option(arguments: list[str]) -> list[str]:
    """Return one line for each option, in order, without what differs from one Debian to the next."""
    options: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not options:
            options.append([])
        options[-1].append(argument)
    return [" ".join(words) for words in options if words[-1] not in ALIASES]
