"""Builds the way out that the settings ask for."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from tci.egress.gate import Gates, Proxy
from tci.egress.squid import Squid, find_squid, published_proxy
from tci.errors import SetupError
from tci.settings import EgressPolicy, Settings


def effective_policy(settings: Settings) -> EgressPolicy:
    """Return the policy that this machine can give; raises SetupError where the operator asked for more.

    Without Squid nothing is let out: the default falls back to that, a policy that was asked for does not.
    """
    if settings.egress is EgressPolicy.NONE or settings.egress_proxy or find_squid():
        return settings.egress
    if "egress" in settings.model_fields_set:
        raise SetupError(
            f"TCI_EGRESS={settings.egress} needs Squid, which is not installed (apt-get install squid), or a proxy"
            " elsewhere (TCI_EGRESS_PROXY). TCI_EGRESS=none does without."
        )
    return EgressPolicy.NONE


def make_gates(settings: Settings, *, sockets: str) -> Gates:
    """Return gates that listen in the run directory, of which `sockets` is a short name."""
    elsewhere = _elsewhere(settings.egress_proxy) if settings.egress_proxy else None

    def find_proxy() -> Proxy | None:  # looked up for each connection: Squid listens elsewhere after a restart
        return elsewhere or published_proxy(_directory(settings))

    return Gates(find_proxy=find_proxy, run_dir=settings.run_dir, sockets=sockets, ca_bundle=trusted(settings))


def runs_proxy(settings: Settings) -> bool:
    """Whether the proxy behind the gates is this service's to run."""
    return not settings.egress_proxy and effective_policy(settings) is not EgressPolicy.NONE


async def run_proxy(settings: Settings) -> None:
    """Keep the proxy behind the gates running for ever, where it is this service's to run."""
    await _squid(settings).run()


async def serve_proxy(settings: Settings, *, address: str, port: int) -> None:
    """Keep a proxy running for services elsewhere: `packages` on this port, `open` on the next."""
    await _squid(settings, listen=(address, port)).run()


def _squid(settings: Settings, *, listen: tuple[str, int] | None = None) -> Squid:
    program = find_squid()
    if program is None:
        raise SetupError("Squid is not installed (apt-get install squid).")
    return Squid(program, directory=_directory(settings), hosts=hosts(settings), ports=ports(settings), listen=listen)


def _directory(settings: Settings) -> Path:
    return settings.data_dir / "egress"


def trusted(settings: Settings) -> Path | None:
    """Return the CA certificates that sandboxes are to trust besides the usual: the operator's, if he set any."""
    for candidate in (settings.ca_bundle, os.environ.get("SSL_CERT_FILE")):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    return None


def hosts(settings: Settings) -> tuple[str, ...]:
    """Return the names that the proxy lets every session reach."""
    index = urlsplit(settings.pip_index_url).hostname if settings.pip_index_url else None
    return tuple(sorted({*settings.egress_hosts, *([index] if index else [])}))


def ports(settings: Settings) -> frozenset[int]:
    """Return the ports that the proxy lets through: the web's, and the index's own."""
    index = urlsplit(settings.pip_index_url).port if settings.pip_index_url else None
    return frozenset({80, 443} | ({index} if index else set()))


def _elsewhere(address: str) -> Proxy:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise SetupError("TCI_EGRESS_PROXY must be host:port.")
    return Proxy(host, {EgressPolicy.PACKAGES: int(port), EgressPolicy.OPEN: int(port) + 1})
