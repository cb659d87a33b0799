"""Looks at the machine: kernel, control groups, namespaces, disks, clock."""

import datetime as dt
import os
import platform
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tci.doctor.finding import Finding, hole, ok, weak
from tci.doctor.versions import parse_version
from tci.sandbox.cgroup import ROOT, can_make_cgroups

OLDEST_KERNEL = (5, 10)
"""The oldest kernel that its authors still mend."""

RELEASE_YEAR = 2026
"""When this version was made; a clock that shows less is wrong."""

MIN_FREE_BYTES = 2 * 1024**3
"""Free space below which something will soon fail: the sandbox image alone is 1.5 GB."""

NAMESPACE_SWITCHES = {
    "user/max_user_namespaces": "0",
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}
"""Files of /proc/sys, where they are, and the value with which users may make no namespace."""


def look_at_host() -> Iterator[Finding]:
    """Yield what there is to say of this machine, whichever driver is used."""
    yield kernel(platform.release())
    yield ok("control groups", _cgroup_version())
    yield virtualisation(has_kvm=Path("/dev/kvm").exists())
    yield clock(dt.datetime.now(dt.UTC))


def look_at_bubblewrap(bwrap: Path) -> Iterator[Finding]:
    """Yield what the bubblewrap driver stands on."""
    said = subprocess.run([str(bwrap), "--version"], capture_output=True, text=True, check=False).stdout.strip()
    yield bubblewrap(f"{bwrap}, {said}", is_setuid=bool(bwrap.stat().st_mode & stat.S_ISUID))
    is_root = os.geteuid() == 0
    yield user_namespaces(_blocked_namespaces(), is_root=is_root)
    yield bubblewrap_limits(has_cgroups=can_make_cgroups())
    yield swap(has_swap=len(Path("/proc/swaps").read_text().splitlines()) > 1, is_counted=_counts_swap())
    mend = "Against bugs of the kernel use the Docker driver with TCI_DOCKER_RUNTIME=runsc (gVisor)."
    yield weak("runtime", "namespaces: sandboxes share the host's kernel", mend)


def kernel(release: str) -> Finding:
    """Judge the kernel's version; whether a distribution has mended it can't be told from that."""
    version = parse_version(release)
    if version is None or version[:2] >= OLDEST_KERNEL:
        return ok("kernel", f"{release}; keep it up to date, every sandbox stands on it")
    return weak("kernel", f"{release} is no longer mended by its authors", "Install a newer one, and its updates.")


def virtualisation(*, has_kvm: bool) -> Finding:
    """Say whether Kata, or gVisor with its faster platform, could run here."""
    if has_kvm:
        return ok("virtualisation", "/dev/kvm is there: Kata, or gVisor on KVM, could run here")
    return ok("virtualisation", "no /dev/kvm: gVisor (systrap) could run here, Kata could not")


def clock(now: dt.datetime) -> Finding:
    """Judge this machine's clock, without asking anybody: only a gross error is found."""
    if now.year >= RELEASE_YEAR:
        return ok("clock", f"{now:%Y-%m-%d %H:%M} UTC")
    mend = "Set it (chrony, systemd-timesyncd): with it certificates and the age of sessions are judged."
    return weak("clock", f"{now:%Y-%m-%d %H:%M} UTC, before this version was made", mend)


def disk(subject: str, directory: Path) -> Finding:
    """Judge the free space of the file system that a directory is, or will be, on."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 1024**3:.1f} GiB free for {directory}"
    if free >= MIN_FREE_BYTES:
        return ok(subject, found)
    return weak(subject, found, f"Make room: less than {MIN_FREE_BYTES // 1024**3} GiB will not do for long.")


def disk_of_engine(root: Path) -> Iterator[Finding]:
    """Judge the disk of the engine, if it is on this machine and may be looked at."""
    if root.is_dir():
        yield disk("disk of the engine", root)


def bubblewrap(found: str, *, is_setuid: bool) -> Finding:
    """Judge the program itself."""
    if is_setuid:
        mend = f"Run 'chmod u-s' on it, and allow user namespaces ({', '.join(NAMESPACE_SWITCHES)})."
        return weak("bubblewrap", f"{found}, set-user-id: each of its bugs is the host's root", mend)
    return ok("bubblewrap", found)


def user_namespaces(blocked: list[str], *, is_root: bool) -> Finding:
    """Judge whether bubblewrap may make its namespaces."""
    if is_root:
        return ok("user namespaces", "not needed: root makes the others without")
    if not blocked:
        return ok("user namespaces", "users may make them")
    return hole("user namespaces", f"forbidden by {', '.join(blocked)}", "Allow them, or use a Docker engine.")


def bubblewrap_limits(*, has_cgroups: bool) -> Finding:
    """Judge what the bubblewrap driver can limit."""
    if has_cgroups:
        return ok("limits", "memory, pids and processors, by control groups")
    mend = "Run the service as root, or use a Docker engine for strangers' code."
    return weak("limits", "no control group may be made: only each process is limited, not the sandbox", mend)


def swap(*, has_swap: bool, is_counted: bool) -> Finding:
    """Judge whether a sandbox's memory limit can be got around by swapping."""
    if not has_swap:
        return ok("swap", "none on this machine")
    if is_counted:
        return ok("swap", "counted with a sandbox's memory")
    return weak(
        "swap", "not counted: a sandbox may use more than its memory", "Boot with swapaccount=1, or swapoff -a."
    )


def _counts_swap() -> bool:
    memory = ROOT / "memory"
    return (memory / "memory.memsw.limit_in_bytes").exists() or bool(list(ROOT.glob("*/memory.swap.max")))


def _cgroup_version() -> str:
    if (ROOT / "cgroup.controllers").exists():
        return f"version 2 with {(ROOT / 'cgroup.controllers').read_text().strip()}"
    names = sorted(path.name for path in ROOT.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())
    return f"version 1 with {', '.join(names)}" if names else "none are mounted"


def _blocked_namespaces() -> list[str]:
    switches = ((name, Path("/proc/sys", name), value) for name, value in NAMESPACE_SWITCHES.items())
    return [name for name, path, value in switches if path.exists() and path.read_text().strip() == value]
