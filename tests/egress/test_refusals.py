"""Policy `open`: public addresses and listed hosts, and no way round to anything inside."""

from pathlib import Path

import pytest

from tci.egress.gate import MAX_CONNECTIONS
from tests.conftest import Service
from tests.egress.conftest import LISTED, UNLISTED, Site
from tests.sandbox.processes import eventually

ASK = """
import socket
def ask(text):
    with socket.create_connection(("127.0.0.1", 3128), 20) as s:
        s.sendall(text.encode("latin-1"))
        s.settimeout(20)
        answer = b""
        try:
            while b"\\r\\n\\r\\n" not in answer and (data := s.recv(4096)):
                answer += data
        except TimeoutError:
            pass
    return answer.split(b"\\r\\n")[0].decode("latin-1")
print(ask({request!r}))
"""

INSIDE = [
    "127.0.0.1",
    "127.1",
    "127.0.0.6",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",  # noqa: S104 (an address to be refused)
    "localhost",
    "LOCALHOST",
    "localhost.",
    "169.254.169.254",
    "2852039166",
    "0xA9FEA9FE",
    "10.0.0.1",
    "172.17.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[::ffff:0:7f00:1]",
    "[0:1::1]",
    "[64:ff9b:2::1]",
    "[100:1::1]",
    "[200::1]",
    "[800::1]",
    "[1000::1]",
    "[3fff::1]",
    "[4000::1]",
    "[8000::1]",
]


def status(service: Service, request: str) -> str:
    """Return the status line that the way out answers a request with."""
    return service.stdout(ASK.format(request=request))


@pytest.fixture(scope="module")
def session(open_service: Service) -> str:
    found: str = open_service.run("1")["session_id"]
    return found


@pytest.mark.parametrize("host", INSIDE)
def test_inside_address_is_refused(open_service: Service, session: str, host: str) -> None:
    for request in (
        f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n",
        f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
        f"GET http://{host}/ HTTP/1.1\r\nHost: pypi.org\r\n\r\n",
    ):
        line = open_service.stdout(ASK.format(request=request), session)
        # A spelling that Squid does not take for an address is a name, and names none.
        assert line.startswith(("HTTP/1.1 403", "HTTP/1.1 400", "HTTP/1.1 503", "HTTP/1.1 502")), line
        if host.startswith("[") or host in {"127.0.0.1", "169.254.169.254", "localhost", "10.0.0.1"}:
            assert "403 Blocked: the egress policy 'open'" in line


@pytest.mark.parametrize("port", ["proxy's own", "API", 22, 25, 5432, 6379, 2375, 8443])
def test_port_that_is_not_the_web_s_is_refused(open_service: Service, session: str, port: object) -> None:
    conf = (open_service.data_dir / "egress" / "squid.conf").read_text()
    own = conf.split("http_port 127.0.0.1:")[1].split()[0]
    number = {"proxy's own": own, "API": open_service.url.rsplit(":", 1)[1]}.get(str(port), port)
    for host in ("127.0.0.1", LISTED, "pypi.org"):
        for request in (
            f"CONNECT {host}:{number} HTTP/1.1\r\nHost: {host}\r\n\r\n",
            f"GET http://{host}:{number}/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
        ):
            assert "403" in open_service.stdout(ASK.format(request=request), session)


@pytest.mark.parametrize(
    "request_text",
    [
        "GET cache_object://127.0.0.1/info HTTP/1.1\r\n\r\n",
        "GET /squid-internal-mgr/info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET http://127.0.0.1:3128/squid-internal-mgr/menu HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET file:///etc/passwd HTTP/1.1\r\n\r\n",
        "GET ftp://127.0.0.1/ HTTP/1.1\r\n\r\n",
        "GET gopher://127.0.0.1:6379/_INFO HTTP/1.1\r\n\r\n",
        "PURGE http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "TRACE http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\nMax-Forwards: 0\r\n\r\n",
        "GET http://pypi.org@127.0.0.1/ HTTP/1.1\r\nHost: pypi.org\r\n\r\n",
        "GET http://127.0.0.1#pypi.org/ HTTP/1.1\r\nHost: pypi.org\r\n\r\n",
        "GET http://127.0.0.1\\@pypi.org/ HTTP/1.1\r\nHost: pypi.org\r\n\r\n",
        "CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n",
        "CONNECT pypi.org:80 HTTP/1.1\r\n\r\n",
    ],
)
def test_odd_request_is_refused(open_service: Service, session: str, request_text: str) -> None:
    line = open_service.stdout(ASK.format(request=request_text), session)
    assert line.split(" ")[1].startswith(("4", "5")), line


def test_smuggled_second_request_is_judged_by_itself(
    open_service: Service, session: str, sites: tuple[Site, Site]
) -> None:
    listed, unlisted = sites
    inner = f"GET http://{UNLISTED}/smuggled HTTP/1.1\r\nHost: {LISTED}\r\n\r\n"
    for headers in (
        f"Content-Length: {len(inner)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        f"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n{inner}",
        f"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{inner}",
        f"Content-Length: 0\r\n\r\n{inner}",
    ):
        request = f"GET http://{LISTED}/first HTTP/1.1\r\nHost: {LISTED}\r\n{headers}"
        open_service.run(ASK.format(request=request), session)
    assert not [path for path in listed.requests if "smuggled" in path]
    assert unlisted.requests == []


def test_host_that_the_operator_lists_is_reached_and_its_neighbour_is_not(
    open_service: Service, session: str, sites: tuple[Site, Site]
) -> None:
    listed, unlisted = sites
    code = "import requests\nprint(requests.get('http://{}/').text)"
    assert open_service.stdout(code.format(LISTED), session) == "here\n"
    assert "Access Denied" in open_service.stdout(code.format(UNLISTED), session)
    assert (listed.requests, unlisted.requests) == (["/"], [])


def test_closed_connections_that_are_not_read_do_not_pile_up_in_the_service(
    open_service: Service, session: str
) -> None:
    """What the gate has still to send to a client that does not read keeps a descriptor of the service."""

    def held() -> int:
        return len(list(Path(f"/proc/{open_service.process.pid}/fd").iterdir()))

    before = held()
    code = """
import socket, time
kept = []
for _ in range(4):
    for _ in range(30):
        s = socket.socket(socket.AF_UNIX)
        s.connect("/run/tci/egress/proxy")
        s.sendall(b"GET http://10.0.0.1/ HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" * 70)
        s.shutdown(socket.SHUT_WR)
        kept.append(s)
    time.sleep(1)
"""
    open_service.run(code, session)
    assert held() <= before + 2 * MAX_CONNECTIONS + 8
    open_service.run("for s in kept: s.close()", session)
    assert eventually(lambda: held() <= before + 8, 20)


def test_one_session_can_not_take_every_connection(open_service: Service, session: str) -> None:
    hold = """
import socket
held = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(200)]
for s in held: s.sendall(b"GET http://pypi.org/ HTTP/1.1\\r\\n")
"""
    open_service.run(hold, session)
    assert open_service.stdout(
        "import requests\nprint(requests.get('https://pypi.org/simple/cowsay/').status_code)"
    ) == ("200\n")
    open_service.run("for s in held: s.close()", session)
