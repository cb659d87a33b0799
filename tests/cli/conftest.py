"""The command line: on a database of its own, and as a caller of a service."""

from pathlib import Path

import pytest

from tests.conftest import Service, clean_environment, run_tci


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a command on a migrated database."""
    data_dir: Path = tmp_path_factory.mktemp("cli") / "data"
    data_dir.mkdir(mode=0o700)
    found = clean_environment(data_dir)
    run_tci("migrate", environment=found)
    return found


@pytest.fixture
def in_process(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands run in this process, on the same database: for many that are refused alike."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(environment["HOME"])


def caller_environment(service: Service, home: Path) -> dict[str, str]:
    """Return what a caller of a service has: an address, a key, a home, and no setting of a service."""
    environment = clean_environment(home)
    del environment["TCI_DATA_DIR"]
    environment.pop("XDG_STATE_HOME", None)
    return environment | {"TCI_BASE_URL": service.url, "TCI_API_KEY": service.key}
