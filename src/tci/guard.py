"""What keeps a service from starting since it would stand open. Each check returns a fault, or None if all is well.

`tci serve` refuses at the first fault; `tci doctor` shows them all.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from tci.errors import SetupError
from tci.settings import SandboxChoice, Settings

MIN_KEY_CHARACTERS = 20
"""Shortest bootstrap key. Keys are looked up by a fast hash, so they must be too long to be tried out."""

MIN_KEY_VARIETY = 8
"""Fewest different characters of one: 20 random hexadecimal digits have 12, `tci_xxxxxxxxxxxxxxxxxxxx` has 5."""

EXAMPLE_WORDS = ("changeme", "replaceme", "example", "placeholder", "yourapikey", "yourkey", "yoursecret", "password")
"""What keys and passwords that were copied out of a manual have in them, whatever stands between the letters."""

KNOWN_PASSWORDS = frozenset(
    {"123456", "12345678", "123456789", "1234567890", "admin", "default", "foobared", "guest", "letmein", "pass"}
    | {"passwd", "postgres", "postgresql", "pw", "qwerty", "redis", "root", "secret", "tci", "test", "user"}
)
"""What images, manuals and lists of common passwords have."""

OTHERS = 0o077
"""The rights of everybody but the owner."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that stands open, and how to mend it: two sentences."""

    found: str
    mend: str


def require_safe(settings: Settings, *, engine: str | None, shown: Iterable[Path]) -> None:
    """Raise SetupError for the first fault that can be seen before anything is opened.

    `engine` is the URL of the Docker engine, None where there is none to be asked; `shown` is what sandboxes see
    of this machine.
    """
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    for fault in (
        weak_bootstrap_key(settings),
        placeholder_password("TCI_DATABASE_URL", settings.database_url),
        placeholder_password("TCI_REDIS_URL", redis_url),
        open_data_directory(settings.data_dir),
        unprotected_engine(engine, settings),
        reachable_engine(engine, shown),
    ):
        if fault is not None:
            raise SetupError(f"{fault.found} {fault.mend}")


def require_key(settings: Settings, *, has_key: bool) -> None:
    """Raise SetupError where a service that others reach has nobody to let in."""
    fault = public_without_key(settings.host, has_key=has_key)
    if fault is not None:
        raise SetupError(f"{fault.found} {fault.mend}")


def weak_bootstrap_key(settings: Settings) -> Fault | None:
    """A key that can be guessed, or that stands in a manual."""
    if settings.bootstrap_api_key is None:
        return None
    key = settings.bootstrap_api_key.get_secret_value()
    mend = "Set one of your own, say the output of 'openssl rand -hex 24', or unset it and run 'tci keys create'."
    if len(key) < MIN_KEY_CHARACTERS:
        return Fault(f"TCI_BOOTSTRAP_API_KEY is shorter than {MIN_KEY_CHARACTERS} characters.", mend)
    if _is_placeholder(key) or len(set(key)) < MIN_KEY_VARIETY:
        return Fault("TCI_BOOTSTRAP_API_KEY is a placeholder that others know.", mend)
    return None


def placeholder_password(name: str, url: str | None) -> Fault | None:
    """A well-known password of a server that others may reach too."""
    try:
        parts = urlsplit(url or "")
        password, host = _password_of(parts), _host_of(parts)
    except ValueError:  # no URL at all, of which whoever opens it says more
        return None
    if password is None or host.startswith("/") or is_loopback(host):
        return None
    if not _is_placeholder(password) and password != parts.username:
        return None
    found = f"The password in {name} is a placeholder that others know."
    return Fault(found, f"Give the server at {host} one of its own, say the output of 'openssl rand -hex 24'.")


def open_data_directory(directory: Path) -> Fault | None:
    """A data directory that other users of the host may read or enter: keys' hashes, sessions, kernels' sockets."""
    try:
        mode = directory.stat().st_mode & 0o777
    except FileNotFoundError:  # it is made for its owner alone
        return None
    if not mode & OTHERS:
        return None
    found = f"The data directory {directory} is open to other users of this machine (mode {mode:04o})."
    return Fault(found, f"Run 'chmod 0700 {directory}'.")


def public_without_key(host: str, *, has_key: bool) -> Fault | None:
    """An address that others reach, and no key that anybody could use."""
    if has_key or is_loopback(host):
        return None
    found = f"TCI_HOST={host} is reached from other machines, and there is no valid API key."
    return Fault(found, "Run 'tci keys create' first, or set TCI_HOST=127.0.0.1.")


def unprotected_engine(engine: str | None, settings: Settings) -> Fault | None:
    """A Docker engine that anybody on the network may command: whoever does is root on its machine."""
    parts = urlsplit(engine or "")
    if settings.sandbox is SandboxChoice.BUBBLEWRAP:
        return None
    if parts.scheme not in {"tcp", "http"} or is_loopback(parts.hostname or ""):
        return None
    found = f"The Docker engine at {parts.hostname} is reached over TCP without TLS."
    return Fault(
        found, "Protect it with TLS (DOCKER_TLS_VERIFY=1, DOCKER_CERT_PATH), or reach it by ssh:// or unix://."
    )


def reachable_engine(engine: str | None, shown: Iterable[Path]) -> Fault | None:
    """An engine's socket in a directory that sandboxes see: the read-only mount of a socket can be written to."""
    if engine is None or not engine.startswith("unix://"):
        return None
    socket = Path(engine.removeprefix("unix://")).resolve()
    for directory in shown:
        if socket.is_relative_to(directory.resolve()):
            found = f"The Docker engine's socket {socket} is in {directory}, which sandboxes see."
            return Fault(found, "Let the engine listen elsewhere, say in /run.")
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name that is not `localhost` may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_placeholder(secret: str) -> bool:
    letters = "".join(character for character in secret.casefold() if character.isalnum())
    return letters in KNOWN_PASSWORDS or any(word in letters for word in EXAMPLE_WORDS)


def _password_of(parts: SplitResult) -> str | None:
    [password] = parse_qs(parts.query).get("password", [None])[-1:]
    return password if parts.password is None else unquote(parts.password)


def _host_of(parts: SplitResult) -> str:
    """Return the host's name or address, or the directory or file of its UNIX socket."""
    if parts.scheme == "unix":
        return parts.path
    [host] = parse_qs(parts.query).get("host", [None])[-1:]
    return host or parts.hostname or "localhost"
