"""What the tests of the wire share: one session, a stranger, and a service with tight limits."""

from collections.abc import Iterator

import httpx
import pytest

from tests.api.session_files import Files
from tests.conftest import Service, serving

BODY_LIMIT = 100_000


@pytest.fixture(scope="module")
def session_id(service: Service) -> str:
    """A live session, for tests that need any."""
    found: str = service.run("")["session_id"]
    return found


@pytest.fixture
def files(service: Service, session_id: str) -> Files:
    """The files of the shared session, emptied before."""
    service.run("!rm -rf ~/* ~/.hidden ~/... 2>/dev/null; true", session_id)
    return Files(service, session_id)


@pytest.fixture(scope="session")
def stranger(service: Service) -> Iterator[httpx.Client]:
    """A caller of another account."""
    headers = {"Authorization": f"Bearer {service.new_key('stranger')}"}
    with httpx.Client(base_url=service.url, timeout=120, headers=headers) as client:
        yield client


@pytest.fixture(scope="session")
def anonymous(service: Service) -> Iterator[httpx.Client]:
    """A caller without a key."""
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def tight_service(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has room for one session and small bodies."""
    data_dir = tmp_path_factory.mktemp(f"tight-{driver}") / "data"
    limits = {"max_sessions_per_account": 1, "max_sandboxes": 1, "max_body_bytes": BODY_LIMIT}
    with serving(driver, data_dir, **limits) as running:
        yield running
