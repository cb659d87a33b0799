"""Attacks by way of the network: every address, names, and the families of sockets that are rarely used."""

import contextlib
import errno
import os
import select
import socket

from tci.doctor.attacks.toolkit import Attempts, Target

NO_WAY = frozenset(
    {
        errno.ENETUNREACH,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EPERM,
        errno.EACCES,
        errno.EPROTONOSUPPORT,
        errno.ENODEV,
    }
)
"""Errors that say that no packet was sent. A time-out or a refusal says that one was."""

CONNECT_SECONDS = 0.3

OUTSIDE = (
    "1.1.1.1", "93.184.215.14", "10.0.0.1", "172.16.0.1", "172.17.0.1", "192.168.0.1", "100.64.0.1", "169.254.1.1",
    "169.254.169.254", "169.254.170.2", "198.18.0.1", "2606:4700::1111", "fd00:ec2::254", "fe80::1", "::ffff:1.1.1.1",
    "64:ff9b::101:101",
)  # fmt: skip
"""Public, private, link-local and metadata addresses, of version 4, 6 and 4 within 6."""

GROUPS = ("255.255.255.255", "224.0.0.251", "239.255.255.250", "172.17.255.255")
"""Broadcast and multicast addresses."""

USUAL_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}

FAMILIES = {
    "AF_AX25": 3, "AF_IPX": 4, "AF_APPLETALK": 5, "AF_NETROM": 6, "AF_ATMPVC": 8, "AF_X25": 9, "AF_ROSE": 11,
    "AF_KEY": 15, "AF_PACKET": 17, "AF_ATMSVC": 20, "AF_RDS": 21, "AF_PPPOX": 24, "AF_LLC": 26, "AF_IB": 27,
    "AF_MPLS": 28, "AF_CAN": 29, "AF_TIPC": 30, "AF_BLUETOOTH": 31, "AF_IUCV": 32, "AF_RXRPC": 33, "AF_ISDN": 34,
    "AF_PHONET": 35,
    "AF_IEEE802154": 36, "AF_CAIF": 37, "AF_ALG": 38, "AF_NFC": 39, "AF_VSOCK": 40, "AF_KCM": 41, "AF_QIPCRTR": 42,
    "AF_SMC": 43, "AF_XDP": 44, "AF_MCTP": 45,
}  # fmt: skip

NETLINK = {
    "USERSOCK": 2, "SOCK_DIAG": 4, "NFLOG": 5, "XFRM": 6, "SELINUX": 7, "ISCSI": 8, "AUDIT": 9, "FIB_LOOKUP": 10,
    "CONNECTOR": 11, "NETFILTER": 12, "KOBJECT_UEVENT": 15, "GENERIC": 16, "SCSITRANSPORT": 18, "RDMA": 20,
    "CRYPTO": 21,
}  # fmt: skip
"""Protocols of AF_NETLINK; the one that Python's list of interfaces needs (ROUTE, 0) is not among them."""


def outside_addresses(target: Target, attempts: Attempts) -> None:
    """Send to public, private, link-local and metadata addresses, over TCP and UDP."""
    for address in (*OUTSIDE, *target.host_addresses):
        attempts.attempt(f"TCP to {address}", _send, address, 80, refusals=NO_WAY)
        attempts.attempt(f"UDP to {address}", _send, address, 443, socket.SOCK_DGRAM, refusals=NO_WAY)


def interfaces(target: Target, attempts: Attempts) -> None:
    """Find an interface besides the loopback, or a route."""
    del target
    for name in _interfaces():
        if name == "lo":
            attempts.stop("a loopback alone")
        else:
            attempts.reach(f"interface {name}")
    for path in ("/proc/net/route", "/proc/net/arp"):
        with contextlib.suppress(OSError), open(path) as file:
            for line in file.read().splitlines()[1:]:
                attempts.reach(f"{path}: {line.split()[0]}")


def host_ports(target: Target, attempts: Attempts) -> None:
    """Connect to the host's own ports: the API, the database, Redis."""
    refused = NO_WAY | {errno.ECONNREFUSED}
    for port in target.host_ports:
        for address in ("127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1", "127.1.2.3"):
            attempts.attempt(f"{address} port {port}", _send, address, port, refusals=refused)


def names(target: Target, attempts: Attempts) -> None:
    """Resolve names, through the system and by asking the host's and public servers."""
    for name in (
        "example.com",
        "pypi.org",
        "metadata.google.internal",
        "host.docker.internal",
        f"{target.marker}.example.com",
    ):
        try:
            attempts.reach(f"{name} is {socket.getaddrinfo(name, 80)[0][4][0]}")
        except socket.gaierror as error:
            attempts.stop(str(error.strerror))
    for resolver in (*target.resolvers, "1.1.1.1", "8.8.8.8", "127.0.0.53", "127.0.0.11"):
        attempts.attempt(f"the resolver {resolver}", _ask, resolver, refusals=NO_WAY | {errno.ECONNREFUSED})


def groups(target: Target, attempts: Attempts) -> None:
    """Send to broadcast and multicast addresses."""
    del target
    for address in GROUPS:
        attempts.attempt(
            address,
            _send,
            address,
            1900,
            socket.SOCK_DGRAM,
            socket.SO_BROADCAST,
            refusals=NO_WAY,
        )


def raw_sockets(target: Target, attempts: Attempts) -> None:
    """Open sockets that forge packets."""
    del target
    for family in (socket.AF_INET, socket.AF_INET6):
        for protocol in (1, 6, 17, 58, 255):
            attempts.attempt(
                f"raw {family.name} {protocol}",
                _open_socket,
                family,
                socket.SOCK_RAW,
                protocol,
            )


def unusual_sockets(target: Target, attempts: Attempts) -> None:
    """Open a socket of each family that no caller needs, each a door into rarely used kernel code."""
    del target
    refused = frozenset({errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOSYS})
    for name, family in FAMILIES.items():
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                _open_socket(family, kind, 0)
            except OSError as error:
                if error.errno in refused:
                    attempts.stop(errno.errorcode[error.errno])
                    continue
            attempts.reach(name)
            break


def netlink_sockets(target: Target, attempts: Attempts) -> None:
    """Open a netlink socket of each protocol that Python does not need."""
    del target
    for name, protocol in NETLINK.items():
        attempts.attempt(
            f"NETLINK_{name}",
            _open_socket,
            socket.AF_NETLINK,
            socket.SOCK_RAW,
            protocol,
        )


def _interfaces() -> set[str]:
    """Return the interfaces that the C library finds, and those that /proc shows."""
    names = set()
    with contextlib.suppress(OSError):
        names |= {name for _, name in socket.if_nameindex()}
    with contextlib.suppress(OSError), open("/proc/net/dev") as file:
        names |= {line.split(":")[0].strip() for line in file.read().splitlines()[2:]}
    return names


def _open_socket(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def _send(address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM, option: int | None = None) -> None:
    """Connect, or send a byte; raises the error that the network gives."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # A link-local address is one of an interface; number 1 is the loopback, 2 the first of any others.
    where = (address, port, 0, 2 if address.startswith("fe80") else 0) if ":" in address else (address, port)
    with socket.socket(family, kind) as connection:
        connection.setblocking(False)
        if option is not None:
            connection.setsockopt(socket.SOL_SOCKET, option, 1)
        if kind == socket.SOCK_DGRAM:
            connection.sendto(b"?", where)
            return
        number = connection.connect_ex(where)
        if number == errno.EINPROGRESS:  # a packet left; its answer may be that there is nobody
            select.select([], [connection], [], CONNECT_SECONDS)
            number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))


def _ask(resolver: str) -> bytes:
    """Ask a name server for the address of example.com."""
    question = bytes.fromhex("1234010000010000000000000765 78616d706c6503636f6d0000010001".replace(" ", ""))
    with socket.socket(socket.AF_INET6 if ":" in resolver else socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(CONNECT_SECONDS)
        connection.connect((resolver, 53))
        connection.send(question)
        try:
            return connection.recv(512)
        except TimeoutError:
            return b""


ATTACKS = (
    outside_addresses,
    interfaces,
    host_ports,
    names,
    groups,
    raw_sockets,
    unusual_sockets,
    netlink_sockets,
)
