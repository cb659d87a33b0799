"""Looks at the Docker engine: pure functions of what it says of itself."""

from collections.abc import Iterator, Mapping
from typing import Any

from tci import guard
from tci.doctor.finding import Finding, hole, judged, ok, weak
from tci.doctor.versions import known_runc_holes, parse_version
from tci.settings import Settings

OWN_KERNEL = ("runsc", "kata")
"""Runtimes that put a kernel of their own between the code and the host's begin with these."""


def look_at_engine(version: Mapping[str, Any], info: Mapping[str, Any], settings: Settings) -> Iterator[Finding]:
    """Yield what there is to say of an engine's answers to `GET /version` and `GET /info` (API v1.41)."""
    options = [str(option) for option in info.get("SecurityOptions") or []]
    yield ok("engine", f"{version.get('Version')}, API {version.get('ApiVersion')}")
    yield ok("engine storage", f"{info.get('Driver')} in {info.get('DockerRootDir')}")
    yield from _components(version)
    yield runtime(info, settings)
    yield user_namespace(options)
    yield seccomp(options)
    yield mandatory_access_control(options)
    yield live_restore(info)
    yield from limits(info)


def _components(version: Mapping[str, Any]) -> Iterator[Finding]:
    for component in version.get("Components") or []:
        name, text = str(component.get("Name")), str(component.get("Version"))
        if name == "runc":
            yield runc(text)
        elif name == "containerd":
            yield ok("containerd", text)


def runc(text: str) -> Finding:
    """Judge a version of runc. A distribution mends old versions too, so an old number is no proof of a hole."""
    version = parse_version(text)
    if version is None:
        return weak("runc", f"can't tell the version from {text!r}", "Compare 'runc --version' with runc's advisories.")
    holes = known_runc_holes(version)
    if not holes:
        return ok("runc", f"{text}, no known hole")
    mend = "Check your distribution: it may have mended this version. Else install runc 1.2.8, 1.3.3, 1.4.0 or later."
    return weak("runc", f"{text} may be outdated: {', '.join(holes)}", mend)


def runtime(info: Mapping[str, Any], settings: Settings) -> Finding:
    """Judge what stands between the code and the host's kernel."""
    name = settings.docker_runtime or str(info.get("DefaultRuntime") or "runc")
    if settings.docker_runtime and name not in (info.get("Runtimes") or {}):
        known = ", ".join(sorted(info.get("Runtimes") or {}))
        return hole("runtime", f"the engine has no runtime {name}, only {known}", "Install it, or TCI_DOCKER_RUNTIME=.")
    if any(part in name for part in OWN_KERNEL):
        return ok("runtime", f"{name}, a kernel of its own")
    mend = "Against bugs of the kernel set TCI_DOCKER_RUNTIME=runsc (gVisor), or Kata where there is virtualisation."
    return weak("runtime", f"{name}: sandboxes share the host's kernel", mend)


def user_namespace(options: list[str]) -> Finding:
    """Judge whether a container's users are users of the host."""
    if any("name=rootless" in option for option in options):
        return ok("engine's user", "rootless: the engine is not the host's root")
    if any("name=userns" in option for option in options):
        return ok("engine's user", "root, with containers' users remapped")
    mend = 'Set "userns-remap": "default" in /etc/docker/daemon.json, or run a rootless engine; see docs/security.md.'
    return weak("engine's user", "root, and a container's users are the host's", mend)


def seccomp(options: list[str]) -> Finding:
    """Judge whether the engine filters system calls."""
    if any("name=seccomp" in option for option in options):
        return ok("seccomp", "the engine filters system calls")
    return hole("seccomp", "the engine can't filter system calls", "Use an engine and a kernel with seccomp.")


def mandatory_access_control(options: list[str]) -> Finding:
    """Judge whether AppArmor or SELinux confines containers as well."""
    for name in ("AppArmor", "SELinux"):
        if any(f"name={name.lower()}" in option for option in options):
            return ok("AppArmor", f"{name} confines containers too")
    mend = "Where the kernel has AppArmor or SELinux, enable it: it holds where another control is missing."
    return weak("AppArmor", "neither AppArmor nor SELinux confines containers", mend)


def live_restore(info: Mapping[str, Any]) -> Finding:
    """Judge whether sessions outlive a restart of the engine, without which updates are put off."""
    if info.get("LiveRestoreEnabled"):
        return ok("live-restore", "sessions outlive a restart of the engine")
    mend = 'Set "live-restore": true in /etc/docker/daemon.json, so that the engine can be updated at any time.'
    return weak("live-restore", "a restart of the engine ends every session", mend)


def limits(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge what the engine can limit, by the host's control groups."""
    mend = (
        "Enable the controller of the kernel (cgroup_enable=... on its command line, systemd's Delegate= if rootless)."
    )
    lacking = [name for name, key in (("memory", "MemoryLimit"), ("pids", "PidsLimit")) if not info.get(key)]
    version = f"cgroup version {info.get('CgroupVersion', '1')}"
    if lacking:
        yield hole("limits", f"{version}; the engine can't limit {' and '.join(lacking)}", mend)
    elif not (info.get("CpuCfsQuota") and info.get("CpuCfsPeriod")):
        yield weak("limits", f"{version}; the engine can't limit processors", mend)
    else:
        yield ok("limits", f"{version}; memory, pids and processors can be limited")
    if info.get("SwapLimit"):
        yield ok("swap", "counted with a sandbox's memory")
    else:
        yield weak("swap", "not counted: a sandbox may use twice its memory", "Boot with swapaccount=1, or swapoff -a.")


def engine_access(engine: str | None, settings: Settings) -> Finding:
    """Judge who may command the engine."""
    return judged("engine access", guard.unprotected_engine(engine, settings), engine or "")
