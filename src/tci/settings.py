"""Everything an operator may set, with its default and unit. `.env.example` is compared with it by a test."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

GIB = 1024**3
MIB = 1024**2

IDLE_SANDBOX_BYTES = 200 * MIB
"""What one live session is planned with: an idle kernel with numpy, pandas and matplotlib measured 90 to 150 MiB."""


class SandboxChoice(StrEnum):
    """Which driver confines the code."""

    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"


class EgressPolicy(StrEnum):
    """What code in a sandbox may reach; each allows what those before it do."""

    NONE = "none"
    PACKAGES = "packages"
    OPEN = "open"

    def narrowed(self, other: "EgressPolicy | None") -> "EgressPolicy":
        """Return whichever of the two allows less; None says nothing."""
        order = list(EgressPolicy)
        return self if other is None else min(self, other, key=order.index)


class Settings(BaseSettings):
    """The operator's settings, read from `TCI_...` variables and from a `.env` file."""

    model_config = SettingsConfigDict(env_prefix="TCI_", env_file=".env", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address that the service listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port that the service listens on; 0 takes a free one.")
    data_dir: Path = Field(Path(".tci"), description="Directory of the embedded database, sockets and environments.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; empty: an SQLite file in TCI_DATA_DIR.")
    database_pool_size: int = Field(10, gt=0, description="Connections to PostgreSQL that each process keeps, at most.")
    redis_url: SecretStr | None = Field(None, description="Redis URL; empty: an embedded Valkey in TCI_DATA_DIR.")
    keep_sessions: bool | None = Field(
        None,
        description="Whether sessions outlive a stop; empty: with a server database yes, with the embedded one no.",
    )
    stop_seconds: float = Field(
        10.0,
        ge=0,
        description="Time that running requests have to end at a stop; then they are interrupted, in seconds.",
    )
    drain_seconds: float = Field(
        0.0, ge=0, description="Time for which a stopping service goes on serving while /ready says no, in seconds."
    )
    sandbox: SandboxChoice = Field(SandboxChoice.AUTO, description="Driver: auto, docker or bubblewrap.")
    bootstrap_api_key: SecretStr | None = Field(None, description="A key of this value is made at start-up.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged: debug, info, warning or error."
    )

    max_body_bytes: int = Field(64 * MIB, gt=0, description="Largest request body, in bytes.")
    session_ttl_seconds: int = Field(3600, gt=0, description="Life of a session from its start, in seconds.")
    session_price_usd: str = Field(
        "0.03", pattern=r"^\d+(\.\d{1,6})?$", description="Price of one session, in US dollars."
    )
    max_sessions_per_account: int = Field(100, gt=0, description="Live sessions that one account may have.")
    max_sandboxes: int | None = Field(
        None, gt=0, description="Sandboxes on this machine; empty: its memory divided by 200 MiB."
    )
    pool_size: int = Field(
        2, ge=0, description="Sandboxes that are kept ready for new sessions, at least; 0: none, each is launched."
    )
    pool_max_size: int = Field(
        10, ge=0, description="Sandboxes that are kept ready, at most, while many new sessions are asked for."
    )
    max_launches: int | None = Field(
        None, gt=0, description="Sandboxes that each process launches at once; empty: one for each processor."
    )
    reap_interval_seconds: float = Field(
        1.0, gt=0, description="Time between two looks for expired sessions, in seconds."
    )
    reconcile_interval_seconds: float = Field(
        30.0, gt=0, description="Time between two comparisons of what runs with what is recorded, in seconds."
    )

    timeout_seconds: float = Field(300.0, gt=0, description="Time limit of an execution, in seconds.")
    max_timeout_seconds: float = Field(
        3600.0, gt=0, description="Largest time limit that a request may ask for, in seconds."
    )
    max_waiting: int = Field(16, ge=0, description="Calls that may wait for their turn in one session.")
    heartbeat_seconds: float = Field(
        10.0, gt=0, description="Time without an answer after which a byte is sent every so often, in seconds."
    )
    grace_seconds: float = Field(5.0, ge=0, description="Time between interrupt and destruction, in seconds.")
    max_output_bytes: int = Field(16 * MIB, ge=1024, description="Largest output of an execution, in bytes.")
    launch_timeout_seconds: float = Field(
        60.0, gt=0, description="Time that a sandbox has to become ready, in seconds."
    )

    sandbox_memory_bytes: int = Field(2 * GIB, ge=128 * MIB, description="Memory of a sandbox without swap, in bytes.")
    sandbox_cpus: float = Field(1.0, gt=0, description="Processors of a sandbox.")
    sandbox_pids: int = Field(256, ge=32, description="Processes and threads of a sandbox.")
    sandbox_disk_bytes: int = Field(GIB, gt=0, description="Size of home and of /tmp in a sandbox, in bytes.")
    sandbox_inodes: int = Field(100_000, ge=1000, description="Files and directories in home, /tmp and /dev/shm each.")
    sandbox_shm_bytes: int = Field(64 * MIB, gt=0, description="Size of /dev/shm in a sandbox, in bytes.")
    sandbox_open_files: int = Field(1024, ge=64, description="Open files of a process in a sandbox.")
    preload: Annotated[tuple[str, ...], NoDecode] = Field(
        ("numpy", "pandas", "matplotlib.pyplot"), description="Modules imported before the first code, by commas."
    )

    egress: EgressPolicy = Field(
        EgressPolicy.PACKAGES,
        description="What code may reach: none, packages (the package index) or open (public addresses).",
    )
    egress_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        ("files.pythonhosted.org", "pypi.org"),
        description="Hosts that code may reach although their addresses are not public, or under packages; by commas.",
    )
    egress_proxy: str | None = Field(
        None,
        description="host:port of a proxy elsewhere (its next port serves open); empty: Squid, run by the service.",
    )

    docker_host: str | None = Field(
        None, description="URL of the Docker engine; empty: as the docker command finds it."
    )
    docker_runtime: str | None = Field(
        None, description="OCI runtime of the containers, say runsc; empty: the engine's."
    )
    docker_apparmor: str | None = Field(
        None, description="AppArmor profile of the containers, where the host has AppArmor; empty: the engine's."
    )
    pip_index_url: str | None = Field(
        None, description="Package index for building the sandbox and for pip in it; empty: pip's own."
    )
    ca_bundle: Path | None = Field(
        None, description="CA certificates (PEM) for building the sandbox and for code in it; empty: SSL_CERT_FILE's."
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, object]) -> dict[str, object]:
        """Let `TCI_X=` in a file mean the default: the way `.env.example` shows a setting that has none."""
        unset = {name: value for name, value in values.items() if value != ""}
        for name in ("preload", "egress_hosts"):
            if isinstance(unset.get(name), str):
                unset[name] = tuple(part.strip() for part in str(unset[name]).split(",") if part.strip())
        return unset

    @model_validator(mode="after")
    def _absolute_data_dir(self) -> Self:
        object.__setattr__(self, "data_dir", self.data_dir.expanduser().absolute())
        return self

    @property
    def sql_url(self) -> str:
        """The database to use, with an async driver in its scheme."""
        if not self.database_url:
            return f"sqlite+aiosqlite:///{self.data_dir / 'tci.sqlite3'}"
        scheme, rest = self.database_url.split("://", 1)
        drivers = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
        return f"{drivers.get(scheme, scheme)}://{rest}"

    @property
    def run_dir(self) -> Path:
        """Where each sandbox has its directory of sockets."""
        return self.data_dir / "run"

    @property
    def keepers_dir(self) -> Path:
        """Where the locks are by which processes answer for sandboxes."""
        return self.data_dir / "keepers"

    @property
    def is_embedded(self) -> bool:
        """Whether the database is the embedded one."""
        return self.sql_url.startswith("sqlite")

    @property
    def launches(self) -> int:
        """How many sandboxes each process launches at once; more at once make each of them slower."""
        return self.max_launches or max(2, os.cpu_count() or 2)

    @property
    def keeps_sessions(self) -> bool:
        """Whether sessions outlive a stop of the service."""
        return not self.is_embedded if self.keep_sessions is None else self.keep_sessions

    @property
    def sandbox_capacity(self) -> int:
        """How many sandboxes this machine may run at once."""
        return self.max_sandboxes or max(1, total_memory_bytes() // IDLE_SANDBOX_BYTES)


def total_memory_bytes() -> int:
    """Memory of this machine, from /proc/meminfo."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 2 * GIB
