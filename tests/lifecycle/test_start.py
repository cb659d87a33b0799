"""What is missing at the start is one clear sentence and status 1; nothing is half started."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import CACHE, Service, clean_environment, run_tci
from tests.lifecycle.conftest import failing_start, leftovers, refused

Start = Callable[..., Service]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated data directory to copy."""
    data_dir = tmp_path_factory.mktemp("migrated")
    run_tci("migrate", environment=clean_environment(data_dir))
    return data_dir


@pytest.fixture
def environment(migrated: Path, prepared: Callable[[str], None], tmp_path: Path) -> dict[str, str]:
    """Everything that a start needs. What is missing is told alike by both drivers, so one is enough."""
    prepared("bubblewrap")
    data_dir = tmp_path / "data"
    shutil.copytree(migrated, data_dir)
    (data_dir / "environments").symlink_to(CACHE / "environments")
    return clean_environment(data_dir, sandbox="bubblewrap", port=0)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def nothing_runs(environment: dict[str, str]) -> None:
    """Assert that a failed start left no process."""
    data_dir = Path(environment["TCI_DATA_DIR"])
    (data_dir / "run").mkdir(exist_ok=True)
    assert leftovers(data_dir, "none") == []


def test_database_that_is_not_migrated_is_refused(environment: dict[str, str]) -> None:
    for file in Path(environment["TCI_DATA_DIR"]).glob("tci.sqlite3*"):
        file.unlink()
    refused(failing_start(environment), r"^tci: The database is at schema none.* Run 'tci migrate'\.$")
    nothing_runs(environment)


def test_environment_that_is_not_prepared_is_refused(environment: dict[str, str]) -> None:
    (Path(environment["TCI_DATA_DIR"]) / "environments").unlink()
    refused(failing_start(environment), r"^tci: The sandbox environment .* Run 'tci sandbox prepare'\.$")
    nothing_runs(environment)


def test_image_that_is_not_built_is_refused(
    environment: dict[str, str], prepared: Callable[[str], None], tmp_path: Path
) -> None:
    """The image is named by what it is made of, so a copy of tci that differs asks for another."""
    prepared("docker")
    start = failing_start(environment | {"PYTHONPATH": str(changed_copy(tmp_path))}, sandbox="docker")
    refused(start, r"^tci: The sandbox image .* Run 'tci sandbox prepare'\.$")
    nothing_runs(environment)


def changed_copy(directory: Path) -> Path:
    """Return the path of a copy of tci whose launcher is another."""
    import tci  # noqa: PLC0415 (where it is installed is what is asked)

    source = Path(tci.__file__).parent
    shutil.copytree(source, directory / "src" / "tci", ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("docker", "alembic"):
        shutil.copytree(source.parents[1] / part, directory / part)
    with (directory / "src" / "tci" / "kernel" / "launcher" / "start.py").open("a") as file:
        file.write("# another\n")
    return directory / "src"


def test_redis_that_does_not_answer_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    start = failing_start(environment, redis_url=f"unix://{tmp_path}/none.sock")
    refused(start, r"^tci: Redis does not answer .* Check TCI_REDIS_URL\.$")
    nothing_runs(environment)


def test_redis_at_a_closed_port_is_refused_without_its_password(environment: dict[str, str]) -> None:
    start = failing_start(environment, redis_url="redis://:pass-word@127.0.0.1:9/0")
    refused(start, r"^tci: Redis does not answer .* Check TCI_REDIS_URL\.$")
    assert "pass-word" not in start.said
    nothing_runs(environment)


def test_redis_url_that_is_none_is_refused(environment: dict[str, str]) -> None:
    refused(failing_start(environment, redis_url="nonsense"), "^tci: .*TCI_REDIS_URL")


@pytest.mark.parametrize("url", ["postgresql://u:pass-word@127.0.0.1:9/tci", "postgresql://tci@/tci?host=/nonexistent"])
def test_database_that_does_not_answer_is_refused_without_its_password(environment: dict[str, str], url: str) -> None:
    start = failing_start(environment, database_url=url)
    refused(start, r"^tci: The database .* does not answer .* Check TCI_DATABASE_URL\.$")
    assert "pass-word" not in start.said
    nothing_runs(environment)


@pytest.mark.parametrize("url", ["nonsense", "mysql://u@h/d", "postgresql://[bad"])
def test_database_url_that_is_none_is_refused(environment: dict[str, str], url: str) -> None:
    refused(failing_start(environment, database_url=url), "^tci: .*TCI_DATABASE_URL")


def test_port_that_is_taken_is_refused(environment: dict[str, str], taken_port: int) -> None:
    refused(failing_start(environment, port=taken_port), str(taken_port))
    nothing_runs(environment)


def test_second_service_on_the_same_port_harms_no_session_of_the_first(start_service: Start) -> None:
    """The usual mistake: the same command typed again in another terminal."""
    service = start_service()
    session_id = service.run("x = 42")["session_id"]
    refused(failing_start(service.environment), service.url.rsplit(":", 1)[1])
    assert service.stdout("print(x)", session_id) == "42\n"


@pytest.mark.parametrize(  # 192.0.2.1 is nobody's address
    ("name", "value"),
    [
        ("port", "abc"),
        ("sandbox", "none"),
        ("log_level", "loud"),
        ("session_ttl_seconds", "-1"),
        ("host", "192.0.2.1"),
    ],
)
def test_setting_that_makes_no_sense_is_refused(environment: dict[str, str], name: str, value: str) -> None:
    refused(failing_start(environment, **{name: value}), f"(?i){name}|{value}")
    nothing_runs(environment)


def test_docker_without_an_engine_is_refused(environment: dict[str, str]) -> None:
    start = failing_start(environment, sandbox="docker", docker_host="unix:///nonexistent")
    refused(start, r"^tci: .*Docker engine.*TCI_SANDBOX=bubblewrap\.$")
    nothing_runs(environment)


def test_auto_without_an_engine_takes_bubblewrap_and_says_so_first(driver: str, start_service: Start) -> None:
    if driver != "bubblewrap":
        pytest.skip("what is taken is bubblewrap")
    service = start_service(sandbox="auto", docker_host="unix:///nonexistent")
    first = json.loads(service.log.read_text().splitlines()[0])
    assert (first["sandbox"], first["reason"]) == ("bubblewrap", "no Docker engine answers")
    assert service.stdout("print(1)") == "1\n"


def test_auto_with_an_engine_takes_docker_and_says_so_first(driver: str, start_service: Start) -> None:
    if driver != "docker":
        pytest.skip("what is taken is docker")
    service = start_service(sandbox="auto")
    first = json.loads(service.log.read_text().splitlines()[0])
    assert (first["sandbox"], first["reason"]) == ("docker", "a Docker engine answers")
