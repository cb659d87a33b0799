"""Compiles seccomp.json into what bubblewrap loads: seccomp/MACHINE.bpf, classic BPF (seccomp(2), bpf(4)).

Run it after every change of seccomp.json: `python docker/sandbox/compile_seccomp.py`. It needs libseccomp 2.5 or newer
(Debian: libseccomp2). The service needs neither it nor this program: the compiled files travel with it.
"""

import ctypes
import json
import os
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Values of `platform.machine()`, each with its AUDIT_ARCH_... of linux/audit.h, which are libseccomp's tokens."""

ALLOW = 0x7FFF0000
"""SCMP_ACT_ALLOW. This and what follows down to `Condition` is from seccomp.h."""

ERRNO = 0x00050000
"""SCMP_ACT_ERRNO, to which the number of the error is added."""

OPERATORS = {"SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}

ON_OTHER_ARCHITECTURE, NO_NEW_PRIVILEGES, OPTIMIZE = 2, 3, 8
"""Attributes of a filter: SCMP_FLTATR_ACT_BADARCH, ..._CTL_NNP, ..._CTL_OPTIMIZE."""

BINARY_TREE = 2
"""Value of OPTIMIZE for which every call is found in a few steps, not after all that were named before it."""

UNKNOWN = -1
"""__NR_SCMP_ERROR, the number of a name that libseccomp doesn't know. Those of other machines are below it."""

ENOSYS = 38


class Condition(ctypes.Structure):
    """`struct scmp_arg_cmp`: what one argument of a call is compared with."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def compile_profile(profile: dict[str, Any], machine: str) -> bytes:
    """Return the filter of a machine: an array of `struct sock_filter`, 8 bytes each."""
    library = _libseccomp()
    default = _action(profile["defaultAction"], profile["defaultErrnoRet"])
    context = ctypes.c_void_p(library.seccomp_init(default))
    native, wanted = library.seccomp_arch_native(), MACHINES[machine]
    if wanted != native:
        _check(library.seccomp_arch_add(context, wanted), machine)
        _check(library.seccomp_arch_remove(context, native), machine)
    # A call in the manner of another architecture is answered, not punished: by default its thread would be killed,
    # and the kernel without one of its threads would hang.
    _check(library.seccomp_attr_set(context, ON_OTHER_ARCHITECTURE, ERRNO | ENOSYS), "attribute")
    _check(library.seccomp_attr_set(context, NO_NEW_PRIVILEGES, 0), "attribute")  # bwrap's business
    _check(library.seccomp_attr_set(context, OPTIMIZE, BINARY_TREE), "attribute")
    for rule in profile["syscalls"]:
        action = _action(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue  # libseccomp refuses to be told twice
        conditions = [_condition(argument) for argument in rule.get("args", [])]
        array = (Condition * len(conditions))(*conditions)
        for name in rule["names"]:
            number = syscall_number(name)
            _check(library.seccomp_rule_add_array(context, action, number, len(array), array), name)
    program = _export(library, context)
    library.seccomp_release(context)
    return program


def syscall_number(name: str) -> int:
    """Return the number of a call on this machine, or libseccomp's own where this machine has no such call."""
    number: int = _libseccomp().seccomp_syscall_resolve_name(name.encode())
    if number == UNKNOWN:
        raise ValueError(f"libseccomp does not know {name}")
    return number


def _libseccomp() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_arch_native.restype = ctypes.c_uint32
    return library


def _action(name: str, error: int | None) -> int:
    return ALLOW if name == "SCMP_ACT_ALLOW" else ERRNO | (error or 0)


def _condition(argument: dict[str, Any]) -> Condition:
    return Condition(argument["index"], OPERATORS[argument["op"]], argument["value"], argument.get("valueTwo", 0))


def _export(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    with os.fdopen(os.memfd_create("filter"), "r+b") as file:
        _check(library.seccomp_export_bpf(context, file.fileno()), "export")
        file.seek(0)
        return file.read()


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")


if __name__ == "__main__":
    loaded = json.loads((HERE / "seccomp.json").read_text())
    (HERE / "seccomp").mkdir(exist_ok=True)
    for each in MACHINES:
        (HERE / "seccomp" / f"{each}.bpf").write_bytes(compile_profile(loaded, each))
