"""A service that would stand open does not start, and says in one sentence how to close it."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tci import guard
from tci.sandbox import choose, docker
from tci.settings import SandboxChoice, Settings
from tests.conftest import CACHE, KEY, Service, clean_environment, run_tci
from tests.lifecycle.conftest import failing_start, leftovers, refused

PUBLIC = "0.0.0.0"  # noqa: S104 (what is bound is what is tested)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated data directory to copy."""
    data_dir = tmp_path_factory.mktemp("guarded")
    run_tci("migrate", environment=clean_environment(data_dir))
    return data_dir


@pytest.fixture
def environment(migrated: Path, prepared: Callable[[str], None], tmp_path: Path) -> Iterator[dict[str, str]]:
    """Everything that a start needs; a start that is refused leaves no process."""
    prepared("bubblewrap")
    data_dir = tmp_path / "data"
    shutil.copytree(migrated, data_dir)
    (data_dir / "environments").symlink_to(CACHE / "environments")
    yield clean_environment(data_dir, sandbox="bubblewrap", port=0)
    (data_dir / "run").mkdir(exist_ok=True)
    assert leftovers(data_dir, "none") == []


@pytest.mark.parametrize("key", ["changeme", "tci_xxxxxxxxxxxxxxxxxxxxxxxx"])
def test_bootstrap_key_that_can_be_guessed_is_refused(environment: dict[str, str], key: str) -> None:
    start = failing_start(environment, bootstrap_api_key=key)
    refused(start, r"^tci: TCI_BOOTSTRAP_API_KEY is .* 'openssl rand -hex 24'.*\.$")
    assert key not in start.said


@pytest.mark.parametrize(
    "key", ["secret", "your-api-key", "test", "tci_...", "a" * 19, "tci_example_key_of_the_docs", "Change-Me-" * 3]
)
def test_bootstrap_key_of_a_manual_is_a_fault(key: str) -> None:
    assert guard.weak_bootstrap_key(Settings(bootstrap_api_key=key, _env_file=None)) is not None


@pytest.mark.parametrize("key", [KEY, "tci_" + "5f0c9d" * 4 + "1b72", "correct horse battery staple"])
def test_bootstrap_key_of_ones_own_is_let_through(key: str) -> None:
    assert guard.weak_bootstrap_key(Settings(bootstrap_api_key=key, _env_file=None)) is None


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("database_url", "postgresql://tci:password@db.internal/tci"),
        ("database_url", "postgresql://tci:change-me@192.0.2.1:5432/tci"),
        ("database_url", "postgresql://someone:someone@db.internal/tci"),
        ("database_url", "postgresql://tci@/tci?host=db.internal&password=postgres"),
        ("redis_url", "redis://:foobared@cache.internal:6379/0"),
        ("redis_url", "redis://cache.internal?password=redis"),
    ],
)
def test_placeholder_password_of_a_server_elsewhere_is_refused(
    environment: dict[str, str], name: str, url: str
) -> None:
    refused(failing_start(environment, **{name: url}), f"^tci: The password in TCI_{name.upper()} is a placeholder")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tci:password@127.0.0.1/tci",
        "postgresql://tci:password@localhost/tci",
        "postgresql://tci:password@[::1]/tci",
        "postgresql://tci:password@/tci?host=/run/postgresql",
        "unix:///run/redis.sock?password=redis",
        "postgresql://tci:9ZkJx2mVb7@db.internal/tci",
        "redis://cache.internal",
        "postgresql://[bad",
        "",
        None,
    ],
)
def test_password_that_harms_nobody_is_let_through(url: str | None) -> None:
    assert guard.placeholder_password("TCI_DATABASE_URL", url) is None


def test_data_directory_that_others_may_enter_is_refused(environment: dict[str, str]) -> None:
    data_dir = Path(environment["TCI_DATA_DIR"])
    data_dir.chmod(0o755)
    says = rf"^tci: The data directory .*\(mode 0755\)\. Run 'chmod 0700 {data_dir}'\.$"
    refused(failing_start(environment), says)


@pytest.mark.parametrize(("mode", "is_open"), [(0o701, True), (0o740, True), (0o770, True), (0o700, False)])
def test_any_right_of_others_in_the_data_directory_is_a_fault(tmp_path: Path, mode: int, is_open: bool) -> None:
    tmp_path.chmod(mode)
    assert (guard.open_data_directory(tmp_path) is not None) is is_open


@pytest.mark.parametrize("command", [("migrate",), ("sandbox", "prepare")])
def test_data_directory_that_we_make_is_its_owners_alone(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Also where what is made first lies deeper; `sandbox prepare` is cut short once it begins to install."""
    data_dir = tmp_path / "new" / "data"
    environment = clean_environment(data_dir, sandbox="bubblewrap", pip_index_url="http://127.0.0.1:9/")
    environment |= {"HOME": str(tmp_path), "PIP_RETRIES": "0"}
    old = os.umask(0)
    try:
        run_tci(*command, environment=environment, check=False)
    finally:
        os.umask(old)
    assert data_dir.stat().st_mode & 0o777 == 0o700
    assert guard.open_data_directory(data_dir) is None


@pytest.mark.parametrize("host", [PUBLIC, "::"])
def test_public_address_without_a_key_is_refused(environment: dict[str, str], host: str) -> None:
    says = "^tci: TCI_HOST=.* is reached from other machines, and there is no valid API key. Run 'tci keys create'"
    refused(failing_start(environment, host=host), says)


def test_public_address_with_a_revoked_key_only_is_refused(environment: dict[str, str]) -> None:
    run_tci("keys", "create", environment=environment)
    run_tci("keys", "revoke", "1", environment=environment)
    refused(failing_start(environment, host=PUBLIC), "there is no valid API key")


def test_public_address_with_a_bootstrap_key_is_served(driver: str, start_service: Callable[..., Service]) -> None:
    if driver != "bubblewrap":
        pytest.skip("one driver is enough")
    assert start_service(host=PUBLIC).client.get("/health").is_success


@pytest.mark.parametrize("sandbox", ["docker", "auto"])
def test_engine_over_tcp_without_tls_is_refused(environment: dict[str, str], sandbox: str) -> None:
    start = failing_start(environment, sandbox=sandbox, docker_host="tcp://192.0.2.1:2375")
    refused(start, "^tci: The Docker engine at 192.0.2.1 is reached over TCP without TLS. Protect it")


def test_engine_that_the_docker_command_would_find_is_looked_at_as_well(environment: dict[str, str]) -> None:
    start = failing_start(environment | {"DOCKER_HOST": "tcp://192.0.2.1:2375"}, sandbox="docker")
    refused(start, "is reached over TCP without TLS")


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:2375", "http://localhost:2375", "https://192.0.2.1:2376", None])
def test_engine_that_nobody_else_commands_is_let_through(url: str | None) -> None:
    assert guard.unprotected_engine(url, Settings(_env_file=None)) is None


async def test_engine_with_tls_is_told_by_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(docker_host="tcp://192.0.2.1:2376", _env_file=None)
    assert await docker.engine_url(settings) == "tcp://192.0.2.1:2376"
    monkeypatch.setattr("aiodocker.Docker._docker_machine_ssl_context", staticmethod(lambda: None))
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    assert await docker.engine_url(settings) == "https://192.0.2.1:2376"


def test_engine_socket_in_the_run_directory_is_refused(environment: dict[str, str]) -> None:
    url = f"unix://{environment['TCI_DATA_DIR']}/run/docker.sock"
    refused(failing_start(environment, sandbox="docker", docker_host=url), "which sandboxes see. Let the engine listen")


@pytest.mark.parametrize("sandbox", ["bubblewrap", "auto"])
def test_engine_socket_that_the_jail_mounts_is_refused(environment: dict[str, str], sandbox: str) -> None:
    start = failing_start(environment, sandbox=sandbox, docker_host="unix:///usr/local/run/docker.sock")
    refused(start, "^tci: The Docker engine's socket /usr/local/run/docker.sock is in /usr, which sandboxes see.")


def test_engine_socket_behind_a_link_is_found(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    (tmp_path / "outside.sock").symlink_to(shown / "docker.sock")
    assert guard.reachable_engine(f"unix://{tmp_path}/outside.sock", [shown]) is not None
    (shown / "inside.sock").symlink_to(tmp_path / "docker.sock")  # the jail sees the link, not what it names
    assert guard.reachable_engine(f"unix://{shown}/inside.sock", [shown]) is None


def test_socket_on_a_read_only_mount_takes_connections(tmp_path: Path, prepared: Callable[[str], None]) -> None:
    """Why the guard is there: that a jail's mounts are read-only does not keep it from the engine."""
    prepared("bubblewrap")
    settings = Settings(data_dir=CACHE, sandbox=SandboxChoice.BUBBLEWRAP, _env_file=None)
    assert Path("/usr") in choose.shown_paths(settings)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as engine:
        engine.bind(str(tmp_path / "docker.sock"))
        engine.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{tmp_path}/docker.sock')"
        jail = ["bwrap", "--ro-bind", "/", "/", "--unshare-net", "python3", "-c", connect]
        assert subprocess.run(jail, check=False, capture_output=True).returncode == 0
