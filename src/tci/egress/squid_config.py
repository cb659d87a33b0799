"""Squid's configuration: a pure function from what may be reached to the text of `squid.conf`.

The rules are tried in order, the first that fits decides: http://www.squid-cache.org/Doc/config/http_access/.
"""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

INSIDE_4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""What is not globally reachable, from IANA's IPv4 special-purpose registry (RFC 6890): 169.254.169.254 is in it."""

GLOBAL_6, IPV4_IN_6 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("::ffff:0:0/96")
"""All that is globally reachable in version 6, and version 4 in its notation, which Squid takes for version 4."""


def _all_but(*kept: ipaddress.IPv6Network) -> tuple[ipaddress.IPv6Network, ...]:
    networks = [ipaddress.IPv6Network("::/0")]
    for keep in kept:
        networks = [
            part
            for network in networks
            for part in (network.address_exclude(keep) if keep.subnet_of(network) else [network])
        ]
    return tuple(networks)


INSIDE_6 = tuple(
    str(network)
    for network in (
        *_all_but(GLOBAL_6, IPV4_IN_6),
        *map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")),
    )
)
"""What is not globally reachable of version 6, and what carries an IPv4 address (6to4, Teredo).

Each network once: of two that overlap Squid ignores the wider one, with no more than a warning.
"""


@dataclass(frozen=True, slots=True)
class SquidConfig:
    """What one Squid is told."""

    directory: Path
    address: str
    """Where Squid listens, in Squid's notation: an address of version 6 in brackets."""
    packages_port: int
    open_port: int
    hosts: tuple[str, ...]
    """Names that every policy may reach, whatever their address; `.example.com` means all below it too."""
    ports: Collection[int] = (80, 443)
    user: str | None = None
    """Who Squid becomes where it is started by root; None: as it was built."""

    def text(self) -> str:
        """Return `squid.conf`."""
        who = f"cache_effective_user {self.user}\n" if self.user else ""
        return f"""\
http_port {self.address}:{self.packages_port} name=packages
http_port {self.address}:{self.open_port} name=open
acl packages myportname packages
acl open myportname open

# -n: an address is never looked up, whose owner could give it the name of a listed host.
acl listed dstdomain -n {" ".join(self.hosts) or "none.invalid"}
# A name fits if any of its addresses does. They are the very ones that are then connected to: see negative_dns_ttl.
acl inside4 dst {" ".join(INSIDE_4)}
acl inside6 dst {" ".join(INSIDE_6)}
acl ports port {" ".join(str(port) for port in sorted(self.ports))}
acl tunnel method CONNECT
acl plain port 80

http_access deny manager
http_access deny !ports
http_access deny tunnel plain
http_access allow packages listed
http_access deny packages
http_access allow open listed
http_access deny open inside4
http_access deny open inside6
http_access allow open
http_access deny all

# Also the least time for which a name's addresses are kept: a name can't have another between check and connection.
negative_dns_ttl 60 seconds
connect_timeout 10 seconds
request_timeout 30 seconds
forwarded_for delete
httpd_suppress_version_string on
visible_hostname tci-egress

# Nothing is kept: what one session fetched is nothing that another may notice.
cache deny all
cache_mem 0 MB
memory_cache_shared off
digest_generation off
netdb_filename none
pinger_enable off
access_log none
cache_store_log none
cache_log /dev/null
coredump_dir none
pid_filename {self.directory / "squid.pid"}
shutdown_lifetime 1 seconds
max_filedescriptors 16384
{who}"""
