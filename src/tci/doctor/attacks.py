"""Attacks on the sandbox from inside, in their short form. The last line that each prints is its verdict."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attack:
    """Code that tries to get out. Its last printed line is `held: <what stopped it>` or `open: <what it reached>`."""

    name: str
    tries: str
    code: str


ROOT = Attack(
    "become root",
    "setuid(0), and a set-user-id program where there is one",
    """
import os
try:
    os.setuid(0)
    print("open: setuid(0) worked")
except OSError as error:
    print(f"held: setuid(0): {error.strerror}")
""",
)

NETWORK = Attack(
    "reach the network",
    "a TCP connection to the metadata service and to a public address",
    """
import socket
reached, reasons = [], set()
for address in ("169.254.169.254", "1.1.1.1"):
    try:
        socket.create_connection((address, 80), timeout=3).close()
        reached.append(address)
    except OSError as error:
        reasons.add(error.strerror or str(error))
print(f"open: {reached}" if reached else f"held: {', '.join(sorted(reasons))}")
""",
)

ENGINE = Attack(
    "command the engine",
    "the sockets of Docker, containerd and Podman",
    """
import os
sockets = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"]
found = [path for path in sockets if os.path.exists(path)]
print(f"open: {found}" if found else "held: no such file in the sandbox")
""",
)

ATTACKS: tuple[Attack, ...] = (ROOT, NETWORK, ENGINE)
