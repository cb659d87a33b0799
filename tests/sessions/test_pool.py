"""The warm pool of a served service: single use, filled again, and nothing of it is left."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tci.paths import short_path
from tci.sessions.pool import Rate
from tci.settings import EgressPolicy, Settings
from tci.storage.account_store import AccountStore
from tci.storage.database import open_database
from tci.storage.embedded_redis import SOCKET
from tests.conftest import Service, serving
from tests.lifecycle.conftest import deployment, end_sandbox, kill, leftovers, rows

Start = Callable[..., Service]

FILL_SECONDS = 90


@contextlib.contextmanager
def redis_of(service: Service) -> Any:
    """Connect to a service's embedded server."""
    with short_path(service.data_dir) as short, Redis(unix_socket_path=f"{short}/{SOCKET}") as client:
        yield client


def pooled(service: Service) -> set[str]:
    """Return the sandboxes in the pool."""
    with redis_of(service) as client:
        members = client.zrange(f"tci:{deployment(service.data_dir)}:pool", 0, -1)
    return {member.decode().split('"')[1] for member in members}


def figures(service: Service) -> dict[str, int]:
    with redis_of(service) as client:
        found = client.hgetall(f"tci:{deployment(service.data_dir)}:pool:figures")
    return {name.decode(): int(count) for name, count in found.items()}


def filled(service: Service, count: int = 2, *, without: set[str] = frozenset()) -> set[str]:  # type: ignore[assignment]
    """Wait until so many are ready, none of them one of those, and return them."""
    give_up = time.monotonic() + FILL_SECONDS
    while len(found := pooled(service)) < count or found & without:
        assert time.monotonic() < give_up, service.log.read_text()[-3000:]
        time.sleep(0.2)
    return found


def sandbox_of(service: Service, session_id: str) -> str:
    found = rows(service.data_dir, f"SELECT sandbox_id FROM sessions WHERE id = '{session_id}'")
    return str(found[0][0])


def test_new_sessions_take_pooled_sandboxes_once_and_the_pool_fills_again(start_service: Start) -> None:
    service = start_service(pool_size=2)
    first = filled(service)
    sessions = [service.run("x = 1; import sys; print('numpy' in sys.modules)") for _ in range(2)]
    assert [session["outputs"][0]["data"] for session in sessions] == ["True\n"] * 2
    taken = {sandbox_of(service, session["session_id"]) for session in sessions}
    assert taken == first
    assert not filled(service) & first, "a used sandbox is never given to anybody else"
    assert figures(service)["hits"] == 2
    told = dict(line.split("\t") for line in service.tci("pool").stdout.splitlines())
    assert (told["hits"], told["misses"], told["failed"]) == ("2", "0", "0")
    other = service.run("print('x' in globals())")
    assert other["outputs"][0]["data"] == "False\n"


def test_pooled_sandbox_that_died_is_not_given_out_and_is_replaced(start_service: Start) -> None:
    service = start_service(pool_size=1)
    [dead] = filled(service, 1)
    if service.driver == "docker":
        subprocess.run(["docker", "kill", f"tci-{dead}"], check=True, capture_output=True)
    else:
        end_sandbox(service.driver, service.data_dir, dead)
    session = service.run("print('alive')")
    assert session["execution"]["verdict"] == "ok"
    assert sandbox_of(service, session["session_id"]) != dead
    filled(service, 1, without={dead})
    assert dead not in {path.name for path in (service.data_dir / "run").iterdir()}


def test_pooled_session_reaches_the_index_and_one_of_a_narrower_key_nothing(start_service: Start) -> None:
    service = start_service(pool_size=2)
    ready = filled(service)
    assert service.stdout("!pip install --quiet cowsay\nimport cowsay; print('here')") == "here\n"

    async def narrow_key() -> str:
        async with open_database(Settings(data_dir=service.data_dir, _env_file=None)) as engine:
            return await AccountStore(engine).create_key("narrow", egress=EgressPolicy.NONE)

    headers = {"Authorization": f"Bearer {asyncio.run(narrow_key())}"}
    code = "import os; print(os.path.exists('/run/tci/egress'))"
    answer = service.client.post("/tci/execute", json={"code": code}, headers=headers).json()["data"]
    assert answer["outputs"][0]["data"] == "False\n"
    assert sandbox_of(service, answer["session_id"]) not in ready


def test_pool_of_an_emptied_redis_is_destroyed_and_made_anew(start_service: Start) -> None:
    service = start_service(pool_size=2, reconcile_interval_seconds=1)
    lost = filled(service)
    with redis_of(service) as client:
        client.flushall()
    filled(service, without=lost)
    give_up = time.monotonic() + FILL_SECONDS
    while lost & {path.name for path in (service.data_dir / "run").iterdir()}:
        assert time.monotonic() < give_up, "orphans stay"
        time.sleep(0.2)


def test_pool_of_a_killed_service_is_used_by_the_next_one(driver: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(driver, data_dir, pool_size=2) as service:
        ready = filled(service)
        kill(service)
    with serving(driver, data_dir, pool_size=2) as service:
        session = service.run("print(1)")
        assert sandbox_of(service, session["session_id"]) in ready
        label = deployment(data_dir)
        filled(service)
    assert leftovers(data_dir, label) == []


def test_workers_share_one_pool(driver: str, tmp_path: Path) -> None:
    with serving(driver, tmp_path / "data", pool_size=2, arguments=("--workers", "2")) as service:
        ready = filled(service)
        taken = set()
        for _ in range(2):
            service.client.close()
            service.__post_init__()  # a new connection, which any worker may take
            taken.add(sandbox_of(service, service.run("1")["session_id"]))
        assert taken == ready
        # Whoever fills dies: the other one goes on.
        for worker in Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()[:1]:
            os.kill(int(worker), signal.SIGKILL)
        filled(service, without=ready)


def test_burst_beyond_the_pool_is_served_whole(start_service: Start) -> None:
    service = start_service(pool_size=2, preload="json")
    filled(service)

    async def burst() -> list[Any]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(None, service.run, f"print({number})") for number in range(12)]
        return await asyncio.gather(*calls)

    answers = asyncio.run(burst())
    assert sorted(int(answer["outputs"][0]["data"]) for answer in answers) == list(range(12))
    assert len({answer["session_id"] for answer in answers}) == 12


def test_rate_follows_demand_and_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tci.sessions.pool.time.monotonic", lambda: now)
    rate = Rate()
    assert rate.after(1000) == 0, "what was before is not demand"
    for second in range(1, 31):
        now = float(second)
        found = rate.after(1000 + 2 * second)
    assert 1.8 < found <= 2
    for second in range(31, 91):
        now = float(second)
        found = rate.after(1060)
    assert found < 0.01
    assert rate.after(5) < 0.01, "Redis was emptied"
