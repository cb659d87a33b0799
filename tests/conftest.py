"""The real service, started as its users start it, once for each driver that this machine has."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("TCI_TEST_CACHE") or ROOT / ".tci-test").absolute()
"""Where the bubblewrap environment, which takes minutes to install, outlives a run."""

DRIVERS = ("docker", "bubblewrap")
REQUIRE_ALL = os.environ.get("TCI_TEST_REQUIRE_ALL") == "1"
KEY = "tci_test_key_of_the_first_account"
START_SECONDS = 60


def missing(reason: str) -> None:
    """Leave a test out, or fail it where nothing may be left out."""
    if REQUIRE_ALL:
        pytest.fail(f"{reason}, and TCI_TEST_REQUIRE_ALL=1", pytrace=False)
    pytest.skip(reason)


@dataclass
class Service:
    """A running `tci serve`."""

    url: str
    key: str
    driver: str
    data_dir: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=120, headers={"Authorization": f"Bearer {self.key}"})

    def post(self, body: Any, **options: Any) -> httpx.Response:
        """Send a body to /tci/execute."""
        return self.client.post("/tci/execute", json=body, **options)

    def run(self, code: str, session_id: str | None = None, **fields: Any) -> dict[str, Any]:
        """Run code and return the answer's `data`."""
        answer = self.post({"code": code, "language": "python", "session_id": session_id, **fields})
        assert answer.status_code == httpx.codes.OK, f"{answer.text}\n{self.log.read_text()[-3000:]}"
        body: dict[str, Any] = answer.json()
        assert body["errors"] is None
        data: dict[str, Any] = body["data"]
        return data

    def stdout(self, code: str, session_id: str | None = None, **fields: Any) -> str:
        """Run code that must print and do nothing else; return what it printed."""
        outputs = self.run(code, session_id, **fields)["outputs"]
        assert [output["type"] for output in outputs] in ([], ["stdout"]), outputs
        return "".join(output["data"] for output in outputs)

    def end_sessions(self) -> None:
        """End every session of the first account."""
        ids = [session["id"] for session in self.client.get("/tci/sessions").json()["data"]["sessions"]]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda session_id: self.client.delete(f"/tci/sessions/{session_id}"), ids))

    def tci(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line against this service's data."""
        return run_tci(*arguments, environment=self.environment)

    def new_key(self, account: str) -> str:
        """Make a key for another account."""
        return self.tci("keys", "create", "--account", account).stdout.strip()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.client.close()
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def run_tci(*arguments: str, environment: dict[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line; on failure show what it said."""
    command = [sys.executable, "-m", "tci", *arguments]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=environment["HOME"]
    )
    if check:
        assert result.returncode == 0, f"{arguments}: {result.stdout}\n{result.stderr}"
    return result


def clean_environment(data_dir: Path, **settings: object) -> dict[str, str]:
    """Return this process's environment without any TCI_ setting but the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TCI_")}
    given = {f"TCI_{name.upper()}": str(value) for name, value in settings.items()}
    return kept | {"HOME": str(data_dir), "TCI_DATA_DIR": str(data_dir)} | given


@pytest.fixture(scope="session")
def prepared() -> Callable[[str], None]:
    """Prepare a driver's sandboxes once; skip the test where the driver can't work."""
    results: dict[str, str] = {}

    def prepare(driver: str) -> None:
        if driver not in results:
            CACHE.mkdir(parents=True, exist_ok=True)
            environment = clean_environment(CACHE, sandbox=driver)
            result = run_tci("sandbox", "prepare", environment=environment, check=False)
            results[driver] = "" if result.returncode == 0 else result.stderr[-2000:]
        if results[driver]:
            missing(f"no {driver} sandbox here: {results[driver]}")

    return prepare


@contextmanager
def serving(driver: str, data_dir: Path, arguments: Sequence[str] = (), **settings: object) -> Iterator[Service]:
    """Run the service on a data directory; what it leaves behind fails the test.

    Without a pool, unless the settings say otherwise: filling it takes the processor from tests that don't need it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o700)
    if not (data_dir / "environments").exists() and (CACHE / "environments").exists():
        (data_dir / "environments").symlink_to(CACHE / "environments")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"sandbox": driver, "port": port, "bootstrap_api_key": KEY, "pool_size": 0, **settings}
    environment = clean_environment(data_dir, **options)
    run_tci("migrate", environment=environment)
    log = data_dir / "service.log"
    with log.open("ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tci", "serve", *arguments],
            env=environment,
            stdout=log_file,
            stderr=log_file,
            cwd=data_dir,
        )
    service = Service(f"http://127.0.0.1:{port}", KEY, driver, data_dir, environment, process, log)
    try:
        wait_until_healthy(service)
        yield service
    finally:
        if process.poll() is None:
            status = service.stop()
            assert status == 0, log.read_text()[-5000:]
            assert list((data_dir / "run").iterdir()) == [], "sandboxes were left behind"


def wait_until_healthy(service: Service) -> None:
    """Return once /health answers."""
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            if service.client.get("/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert service.process.poll() is None, f"the service ended: {service.log.read_text()[-5000:]}"
        assert time.monotonic() < give_up, "the service did not answer in time"
        time.sleep(0.05)


@pytest.fixture(scope="session", params=DRIVERS)
def driver(request: pytest.FixtureRequest, prepared: Callable[[str], None]) -> str:
    """Each driver that works here, its sandboxes prepared."""
    name: str = request.param
    prepared(name)
    return name


PLENTY = {"max_sessions_per_account": 1000, "max_sandboxes": 1000}
"""Sessions for a service that hundreds of tests share; few of them end what they opened."""

SHARED: list[Service] = []
"""The services that tests share in this process."""


@pytest.fixture(scope="module", autouse=True)
def no_session_outlives_its_module() -> Iterator[None]:
    """End what tests have opened on shared services: a machine has memory for some hundred sandboxes."""
    yield
    for service in SHARED:
        service.end_sessions()


@pytest.fixture(scope="session")
def service(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with default settings, on each driver, but for what many tests that share it use up."""
    data_dir = tmp_path_factory.mktemp(f"service-{driver}") / "data"
    with serving(driver, data_dir, pool_size=2, **PLENTY) as running:
        SHARED.append(running)
        yield running
        SHARED.remove(running)


@pytest.fixture
def start_service(driver: str, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services with settings of a test's own."""
    started: list[Any] = []

    def start(data_dir: Path | None = None, **settings: object) -> Service:
        context = serving(driver, data_dir or tmp_path / f"data{len(started)}", **settings)
        started.append(context)
        return context.__enter__()

    yield start
    for context in reversed(started):
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def live_service(prepared: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for the SDK suite, on the production driver where it works."""
    choice = "docker" if docker_answers() or REQUIRE_ALL else "bubblewrap"
    prepared(choice)
    with serving(choice, tmp_path_factory.mktemp("live") / "data", **PLENTY) as running:
        SHARED.append(running)
        yield running
        SHARED.remove(running)


def docker_answers() -> bool:
    """Whether an engine can be reached from here."""
    try:
        return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def file_of(name: str, content: bytes | str) -> dict[str, str]:
    """Return a file as a request carries it."""
    if isinstance(content, str):
        return {"name": name, "encoding": "string", "content": content}
    return {"name": name, "encoding": "base64", "content": base64.b64encode(content).decode()}
