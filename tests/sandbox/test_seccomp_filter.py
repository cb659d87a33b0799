"""The compiled filters say what seccomp.json says, of every call on both processors."""

import ctypes
import importlib.util
import json
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tci import resources
from tci.sandbox.choose import choose
from tci.sandbox.docker_image import _sources
from tci.settings import SandboxChoice, Settings
from tests.sandbox.bpf import decide
from tests.sandbox.calls import FAMILIES, NEW_NAMESPACES

DEFINITION = resources.sandbox_definition()
PROFILE = json.loads(resources.seccomp_profile())

ALLOW, ERRNO, ENOSYS = 0x7FFF0000, 0x00050000, 38

COMPILED_WITH = (2, 5)
"""The libseccomp of the files in the repository; another may put the same decisions in another order."""

X32 = 0x40000000
"""Bit of the numbers of x86_64's other set of calls (__X32_SYSCALL_BIT)."""

VALUES = (0, 1, 2, 10, 17, 0x40000, 2**32, 2**32 | 1, 2**32 | 16, 2**32 - 1, 2**64 - 1)
ARGUMENTS = (*VALUES, *FAMILIES.values(), *NEW_NAMESPACES.values(), *(17 | flag for flag in NEW_NAMESPACES.values()))


@pytest.fixture(scope="module")
def compiler() -> ModuleType:
    """The program that compiles the filters."""
    spec = importlib.util.spec_from_file_location("compile_seccomp", DEFINITION / "compile_seccomp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    try:
        found = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        pytest.skip(str(error))
    found.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    found.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return found


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_compiled_filter_decides_as_the_profile(machine: str, library: ctypes.CDLL, compiler: ModuleType) -> None:
    architecture = compiler.MACHINES[machine]
    program = compiled(machine)
    wrong, allowed = [], set()
    for number in range(600):
        name = (library.seccomp_syscall_resolve_num_arch(architecture, number) or b"").decode()
        for first in ARGUMENTS if named(name) else (0,):
            found = decide(program, architecture=architecture, number=number, arguments=(first, 0, 0, 0, 0, 0))
            if found != expected(name, first):
                wrong.append((number, name, first, hex(found)))
            if found == ALLOW:
                allowed.add(name)
    assert wrong == []
    assert len(allowed) > 200, "or names were not found"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_refuses_other_architectures(machine: str, compiler: ModuleType) -> None:
    refused = ERRNO | ENOSYS
    nothing = (0, 0, 0, 0, 0, 0)
    for other in (0x40000003, 0x40000028, *compiler.MACHINES.values()):  # i386, 32-bit ARM
        if other != compiler.MACHINES[machine]:
            assert decide(compiled(machine), architecture=other, number=1, arguments=nothing) == refused
    native = compiler.MACHINES[machine]
    assert decide(compiled(machine), architecture=native, number=X32 | 1, arguments=nothing) == refused


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_compiling_again_gives_the_same(machine: str, library: ctypes.CDLL, compiler: ModuleType) -> None:
    version = tuple(library.seccomp_version().contents)[:2]
    if version != COMPILED_WITH:
        pytest.skip(f"libseccomp {version}")
    assert compiler.compile_profile(PROFILE, machine) == compiled(machine), "run docker/sandbox/compile_seccomp.py"


def test_profile_names_each_call_once() -> None:
    names = [name for rule in PROFILE["syscalls"] if "args" not in rule for name in rule["names"]]
    assert len(names) == len(set(names))


def test_other_processor_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resources.seccomp_filter() is not None
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert resources.seccomp_filter() is None


async def test_start_up_line_says_where_there_is_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    bubblewrap = Settings(sandbox=SandboxChoice.BUBBLEWRAP, _env_file=None)
    assert await choose(bubblewrap) == (SandboxChoice.BUBBLEWRAP, "set by TCI_SANDBOX")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "no filter for riscv64" in (await choose(bubblewrap))[1]


def test_filter_is_no_part_of_the_image() -> None:
    files = [name for name in _sources() if not name.startswith("launcher/")]
    assert files == ["Dockerfile", "requirements.txt", "warm.py"]


def compiled(machine: str) -> bytes:
    """Return the filter that travels with the service."""
    return Path(DEFINITION, "seccomp", f"{machine}.bpf").read_bytes()


def named(name: str) -> list[dict[str, Any]]:
    """Return the rules for a call."""
    return [rule for rule in PROFILE["syscalls"] if name in rule["names"]]


def expected(name: str, first: int) -> int:
    """Return what the profile says of a call with this first argument."""
    for rule in named(name):
        if all(holds(argument, first) for argument in rule.get("args", [])):
            return ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else ERRNO | int(rule["errnoRet"])
    return ERRNO | int(PROFILE["defaultErrnoRet"])


def holds(argument: dict[str, Any], first: int) -> bool:
    """Whether a condition, here always on the first argument, holds."""
    assert argument["index"] == 0
    if argument["op"] == "SCMP_CMP_MASKED_EQ":
        return bool(first & argument["value"] == argument["valueTwo"])
    assert argument["op"] == "SCMP_CMP_EQ"
    return bool(first == argument["value"])
