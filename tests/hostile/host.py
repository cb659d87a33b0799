"""What this host holds of a sandbox, looked for in every place where something could stay."""

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from tci.sandbox.bubblewrap import STATE

CGROUPS = Path("/sys/fs/cgroup")
KINDS = ("pid", "net", "ipc", "mnt", "uts")


@dataclass(frozen=True)
class Places:
    """Where the host keeps a running sandbox; asked for while it runs, looked at again when it should be gone."""

    words: tuple[str, ...]
    """Its id and its container's, which everything of it is named by."""
    directories: tuple[Path, ...]
    groups: tuple[Path, ...]
    namespaces: frozenset[str]
    """Of bubblewrap's; used where no control group can be made, since numbers are given again once they are free."""

    def bytes_on_disk(self) -> int:
        """Return the size of all that the host keeps of it on its disk."""
        there = [str(directory) for directory in self.directories if directory.exists()]
        sizes = subprocess.check_output(["du", "--summarize", "--bytes", *there], text=True) if there else ""
        return sum(int(line.split()[0]) for line in sizes.splitlines())

    def tasks(self) -> set[int]:
        """Return the processes and threads in its control group."""
        found: set[int] = set()
        for group in self.groups:
            for name in ("tasks", "cgroup.threads"):
                found |= {int(task) for task in read(group / name).split()}
        return found

    def left(self) -> dict[str, list[str]]:
        """Return what is still there of it, by kind."""
        containers = docker("ps", "--all", "--quiet", "--no-trunc")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found = {
            "processes": [str(pid) for pid in pids_of_all() if self._is_of_it(pid)],
            "tasks": sorted(map(str, self.tasks())),
            "directories": [str(path) for path in self.directories if path.exists()],
            "groups": [str(path) for path in self.groups if path.exists()],
            "mounts": [line for line in mounts if any(word in line for word in self.words)],
            "containers": [word for word in self.words if word in containers],
        }
        return {kind: things for kind, things in found.items() if things}

    def _is_of_it(self, pid: int) -> bool:
        if self.groups:  # which no process can leave, and whose names are given once
            group = read(Path(f"/proc/{pid}/cgroup"))
            return any(word in group for word in self.words)
        return bool(namespaces_of(pid) & self.namespaces)


def places_of(sandbox_id: str, socket_directory: Path) -> Places:
    """Look for everything that the host keeps of a running sandbox."""
    words, directories = [sandbox_id], [socket_directory]
    for name in docker("ps", "--quiet", "--no-trunc", "--filter", f"name=tci-{sandbox_id}"):
        [container] = json.loads("\n".join(docker("inspect", name)))
        words.append(name)
        directories.append(Path(container["GraphDriver"]["Data"]["UpperDir"]))
        if network := container["NetworkSettings"]["SandboxKey"]:  # none is made for a container without network
            directories.append(Path(network))
        directories += [Path("/var/lib/docker/containers", name), Path("/run/docker/runtime-runc/moby", name)]
    # Not Path.glob, which raises when a group of somebody else goes away meanwhile.
    groups = tuple(Path(path) for word in words for path in glob(f"{CGROUPS}/**/{word}", recursive=True))  # noqa: PTH207
    record = json.loads(read(socket_directory / STATE) or "{}")
    namespaces = namespaces_of(record["pid"]) - namespaces_of(os.getpid()) if record else frozenset()
    return Places(tuple(words), tuple(directories), groups, namespaces)


def namespaces_of(pid: int) -> frozenset[str]:
    """Return the namespaces that a process is in."""
    found = set()
    for kind in KINDS:
        with contextlib.suppress(OSError):
            found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return frozenset(found)


def pids_of_all() -> list[int]:
    """Return every process of this host."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def read(path: Path) -> str:
    """Return a file's text, or none where it has gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def docker(*arguments: str) -> list[str]:
    """Return the lines that a docker command says; none where there is no engine."""
    try:
        result = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return result.stdout.splitlines() if result.returncode == 0 else []
