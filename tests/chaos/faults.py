"""What is killed: each fault breaks one part of a stack, mends what does not mend itself, and says what it was."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import RedisError

from tests.sandbox import processes
from tests.stack import Instance, Kind, Stack


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was broken. Moments are of the wall clock."""

    name: str
    began: float
    ended: float
    sandbox_id: str | None = None
    """The sandbox that died of it."""


PAUSE_SECONDS = 3.0

Break = Callable[[Stack, random.Random], str | None]
"""Breaks something and returns the id of the sandbox that is to die of it, if any."""


def inflict(name: str, stack: Stack, chance: random.Random) -> Fault:
    """Break the part of this name."""
    began = time.time()
    sandbox_id = FAULTS[name](stack, chance)
    return Fault(name, began, time.time(), sandbox_id)


def names(stack: Stack) -> list[str]:
    """Return the faults that a stack can suffer."""
    has_workers = any(instance.arguments for instance in stack.instances)
    others = set() if stack.kind is Kind.SERVERS else {"postgresql killed", "postgresql restarted at once"}
    others |= set() if has_workers else {"worker killed"}
    return [name for name in FAULTS if name not in others]


def _any(stack: Stack, chance: random.Random) -> Instance:
    return chance.choice(stack.instances)


def kill_service(stack: Stack, chance: random.Random) -> None:
    """Kill a service; its workers have to notice."""
    instance = _any(stack, chance)
    instance.kill()
    time.sleep(chance.uniform(0, 2))
    instance.start()


def kill_worker(stack: Stack, chance: random.Random) -> None:
    """Kill one worker of a service, which starts another."""
    instance = chance.choice([instance for instance in stack.instances if instance.arguments])
    before = instance.workers()
    victim = chance.choice(sorted(before))
    os.kill(victim, signal.SIGKILL)
    is_back = processes.eventually(lambda: len(instance.workers() - {victim}) == len(before), 30)
    assert is_back, "a worker was not replaced"


def restart_service(stack: Stack, chance: random.Random) -> None:
    """Stop a service as an operator does, and start it again."""
    instance = _any(stack, chance)
    instance.terminate()
    instance.start()


def pause_service(stack: Stack, chance: random.Random) -> None:
    """Let a service stand still, as a machine does that is short of memory."""
    instance = _any(stack, chance)
    instance.signal_all(signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    instance.signal_all(signal.SIGCONT)


def kill_redis(stack: Stack, chance: random.Random) -> None:
    """Kill Redis; the next one is empty. The embedded one is for its service to start again."""
    if stack.redis is not None:
        stack.redis.kill()
        time.sleep(chance.uniform(0, 3))
        stack.redis.start()
        return
    for pid in processes.in_directory(stack.data_dir):
        with contextlib.suppress(OSError):
            if "valkey" in Path(f"/proc/{pid}/comm").read_text():
                os.kill(pid, signal.SIGKILL)
    assert processes.eventually(lambda: _answers(stack), 20), "the embedded Redis was not started again"


def flush_redis(stack: Stack, _chance: random.Random) -> None:
    """Take everything out of Redis."""
    with stack.redis_client() as client:
        client.flushall()


def kill_postgresql(stack: Stack, chance: random.Random) -> None:
    """Kill PostgreSQL with all its processes; the next start recovers from its log."""
    assert stack.postgresql is not None
    stack.postgresql.kill()
    time.sleep(chance.uniform(0, 3))
    stack.postgresql.start()


def restart_postgresql(stack: Stack, _chance: random.Random) -> None:
    """Restart PostgreSQL without a word to its clients."""
    assert stack.postgresql is not None
    stack.postgresql.restart_at_once()


def kill_kernel(stack: Stack, chance: random.Random) -> str | None:
    """Kill one kernel from outside."""
    sandbox_id = _victim(stack, chance)
    with contextlib.suppress(KeyError, ValueError, ProcessLookupError):  # its session has ended in between
        if sandbox_id is not None:
            os.kill(stack.kernel(sandbox_id), signal.SIGKILL)
    return sandbox_id


def kill_sandbox(stack: Stack, chance: random.Random) -> str | None:
    """Remove one container, or kill one jail with all that is in it."""
    sandbox_id = _victim(stack, chance)
    if sandbox_id is None:
        return None
    if stack.driver == "docker":
        stack.docker("rm", "--force", f"tci-{sandbox_id}")
    # Gone in between, it has no process 1 any more; 0 would name our own process group.
    elif init := stack.sandboxes().get(sandbox_id):
        with contextlib.suppress(ProcessLookupError):
            os.kill(init, signal.SIGKILL)
    return sandbox_id


def kill_squid(stack: Stack, _chance: random.Random) -> None:
    """Kill the proxy; its service starts another."""
    for pid in processes.with_command(f"{stack.data_dir}/egress/squid.conf"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _answers(stack: Stack) -> bool:
    try:
        with stack.redis_client() as client:
            return bool(client.ping())
    except RedisError:
        return False


def _victim(stack: Stack, chance: random.Random) -> str | None:
    running = sorted(sandbox for sandbox, pid in stack.sandboxes().items() if pid)
    return chance.choice(running) if running else None


FAULTS: dict[str, Break] = {
    "service killed": kill_service,
    "worker killed": kill_worker,
    "service restarted": restart_service,
    "service stood still": pause_service,
    "redis killed": kill_redis,
    "redis flushed": flush_redis,
    "postgresql killed": kill_postgresql,
    "postgresql restarted at once": restart_postgresql,
    "kernel killed": kill_kernel,
    "sandbox killed": kill_sandbox,
    "squid killed": kill_squid,
}
