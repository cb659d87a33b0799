"""Attacks on other sandboxes and on the host through what processes share: files, memory, sockets.

`plant` leaves a marker in each of these places. It runs in a neighbouring sandbox, and in a used one before a new one
looks for what it left.
"""

import contextlib
import os
import socket
import subprocess
import sys

from tci.doctor.attacks.toolkit import LIBC, Attempts, Target, checked

IPC_CREAT = 0o1000


def plant(target: Target, attempts: Attempts) -> None:
    """Leave the marker in every place where another sandbox could come upon it."""
    for directory in (os.getcwd(), "/tmp", "/dev/shm"):
        with open(f"{directory}/{target.marker}", "w") as file:
            file.write(target.marker)
        os.chmod(f"{directory}/{target.marker}", 0o666)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{target.marker}-planted")
    listener.listen()
    local = socket.socket(socket.AF_UNIX)
    local.bind(f"/tmp/{target.marker}.socket")
    local.listen()
    loopback = socket.socket()
    loopback.bind(("127.0.0.1", planted_port(target)))
    loopback.listen()
    _segment(target.ipc_key + 1, 4096, IPC_CREAT | 0o666)
    sleep = [sys.executable, "-c", "import time; time.sleep(1000)", target.marker]
    subprocess.Popen(sleep, env={"PLANTED": target.marker}, start_new_session=True)
    for planted in (listener, local, loopback):
        planted.detach()  # it stays open, whatever becomes of the object
    attempts.stop("planted")


def other_files(target: Target, attempts: Attempts) -> None:
    """Find the files of another session, or of the host, in the places that everybody may write."""
    for directory in (
        "/tmp",
        "/dev/shm",
        "/home/user",
        "/var/tmp",
        "/run",
        "/run/tci",
        "/run/tci/egress",
        "/dev/mqueue",
    ):
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                if target.marker in name:
                    attempts.reach(f"{directory}/{name}")
    for process in os.listdir("/proc"):
        root = f"/proc/{process}/root"
        if process.isdecimal():
            for directory in ("/tmp", "/dev/shm", "/home/user"):
                if os.path.exists(f"{root}{directory}/{target.marker}"):
                    attempts.reach(f"{root}{directory}/{target.marker}")


def shared_memory(target: Target, attempts: Attempts) -> None:
    """Attach System V shared memory of the host and of another session, and list what there is."""
    for owner, key in (("the host", target.ipc_key), ("another session", target.ipc_key + 1)):
        attempts.attempt(f"shared memory of {owner}", _segment, key)
    with contextlib.suppress(OSError), open("/proc/sysvipc/shm") as file:
        segments = file.read().splitlines()[1:]
        if segments:
            attempts.reach(f"{len(segments)} segments are listed")


def abstract_sockets(target: Target, attempts: Attempts) -> None:
    """Connect to abstract UNIX sockets of the host and of another session, and list what there is."""
    for name in (target.abstract_socket, f"{target.marker}-planted"):
        with socket.socket(socket.AF_UNIX) as connection:
            attempts.attempt(f"@{name}", connection.connect, f"\0{name}")
    with contextlib.suppress(OSError), open("/proc/net/unix") as file:
        for line in file.read().splitlines()[1:]:
            if "@" in line:
                attempts.reach(f"{line.split()[-1]} is listed")


def other_loopback(target: Target, attempts: Attempts) -> None:
    """Connect to what another session listens for on its loopback."""
    with socket.socket() as connection:
        connection.settimeout(1)
        attempts.attempt("another session", connection.connect, ("127.0.0.1", planted_port(target)))


def planted_port(target: Target) -> int:
    """Return the port that `plant` listens on."""
    return 20_000 + target.ipc_key % 10_000


def _segment(key: int, size: int = 0, flags: int = 0) -> int:
    return checked(LIBC.shmget(key, size, flags))


ATTACKS = (other_files, shared_memory, abstract_sockets, other_loopback)
