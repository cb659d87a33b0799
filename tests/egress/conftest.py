"""Services whose code may reach something, and what there is to be reached."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tci.egress.squid import find_squid
from tests.conftest import Service, missing, serving

LISTED, UNLISTED = "127.0.0.5", "127.0.0.6"
"""Two addresses of this machine, as private as any; the operator lists the first."""


@pytest.fixture(scope="session", autouse=True)
def squid() -> None:
    """Leave these tests out where there is no Squid."""
    if find_squid() is None:
        missing("Squid is not installed")


@pytest.fixture(scope="module")
def open_service(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of policy `open` that lists one private address."""
    data_dir = tmp_path_factory.mktemp("open") / "data"
    with serving(driver, data_dir, egress="open", egress_hosts=f"pypi.org,files.pythonhosted.org,{LISTED}") as running:
        yield running


@dataclass
class Site:
    """A web server of this machine."""

    address: str
    requests: list[str]


@contextmanager
def site(address: str) -> Iterator[Site]:
    """Serve `here` on port 80 of an address of this machine."""
    found = Site(address, [])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *_: object) -> None:
            pass

    try:
        server = http.server.ThreadingHTTPServer((address, 80), Handler)
    except PermissionError:
        missing("port 80 is root's")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    """A listed and an unlisted web server."""
    with site(LISTED) as listed, site(UNLISTED) as unlisted:
        yield listed, unlisted
