"""The contract of `tci.sandbox.driver`, held by every driver: launch, inspect, destroy, list_sandboxes."""

import asyncio
import os
import signal
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tci.errors import SandboxFailed
from tci.ids import new_sandbox_id, random_text
from tci.sandbox.bubblewrap import BubblewrapDriver
from tci.sandbox.docker import DockerDriver
from tests.sandbox import processes
from tests.sandbox.conftest import Bench, Sandbox, run

UNKNOWN = "sbx_1111111111111111"

SURVIVORS = """
import os, subprocess, sys, threading
name = {name!r}
sleep = [sys.executable, "-c", "import time; time.sleep(1000)", name]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
bash = "nohup setsid sleep 1000 >/dev/null 2>&1 & exec -a " + name + " sleep 1000"
subprocess.Popen(["/bin/bash", "-c", bash])
subprocess.Popen(["/bin/bash", "-c", "trap '' TERM HUP INT; while true; do sleep 1; done", name])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, sleep)
    os._exit(0)
threading.Thread(target=subprocess.run, args=(sleep,), daemon=True).start()
"""
"""Every usual way to leave something running, the `atd` of the jail's absence aside."""


@pytest.fixture(scope="module")
async def sandbox(bench: Bench) -> AsyncIterator[Sandbox]:
    """A running sandbox for the tests that leave it as it is."""
    async with bench.sandbox() as running:
        yield running


async def test_launched_sandbox_runs_and_its_kernel_answers(bench: Bench, sandbox: Sandbox) -> None:
    assert await sandbox.run("print(6 * 7)") == "42\n"
    status = await bench.driver.inspect(sandbox.id)
    assert status is not None
    assert (status.is_running, status.exit_code, status.is_out_of_memory) == (True, None, False)
    assert sandbox.id in await bench.driver.list_sandboxes()


async def test_sandbox_left_alone_goes_on(bench: Bench, sandbox: Sandbox) -> None:
    await sandbox.run("kept = 'still here'")
    await asyncio.sleep(1.0)
    assert await sandbox.run("print(kept)") == "still here\n"
    status = await bench.driver.inspect(sandbox.id)
    assert status is not None
    assert status.is_running


async def test_destroyed_sandbox_leaves_nothing(bench: Bench) -> None:
    async with bench.sandbox() as sandbox:
        assert processes.with_environment(sandbox.spec.kernel_key), "the check below would pass on anything"
        await bench.driver.destroy(sandbox.id)
        assert await bench.left_of(sandbox.spec) == []


async def test_destroy_twice_does_nothing_more(bench: Bench) -> None:
    async with bench.sandbox() as sandbox:
        await bench.driver.destroy(sandbox.id)
        await bench.driver.destroy(sandbox.id)


async def test_destroy_at_once_by_many_ends_it_for_each(bench: Bench) -> None:
    async with bench.sandbox() as sandbox:

        async def destroy() -> list[object]:
            await bench.driver.destroy(sandbox.id)
            return await bench.left_of(sandbox.spec)

        assert await asyncio.gather(*(destroy() for _ in range(4))) == [[]] * 4


async def test_destroy_at_once_by_two_services_ends_it_for_each(bench: Bench) -> None:
    another = await bench.another_driver()
    async with bench.sandbox() as sandbox:
        await asyncio.gather(bench.driver.destroy(sandbox.id), another.destroy(sandbox.id))
        assert await bench.left_of(sandbox.spec) == []


async def test_unknown_id_is_not_seen_and_may_be_destroyed(bench: Bench) -> None:
    assert await bench.driver.inspect(UNKNOWN) is None
    await bench.driver.destroy(UNKNOWN)
    assert await bench.driver.inspect(UNKNOWN) is None


@pytest.mark.parametrize(("code", "exit_code"), [("import os; os._exit(7)", 7), ("import os; os._exit(0)", 0)])
async def test_kernel_that_exits_is_seen_with_its_exit_code(bench: Bench, code: str, exit_code: int) -> None:
    async with bench.sandbox() as sandbox:
        await ended(bench, sandbox, code)
        status = await bench.driver.inspect(sandbox.id)
        assert status is not None
        assert (status.is_running, status.exit_code, status.is_out_of_memory) == (False, exit_code, False)
        assert sandbox.id in await bench.driver.list_sandboxes(), "seen until it is destroyed"
        await bench.driver.destroy(sandbox.id)
        assert await bench.left_of(sandbox.spec) == []


async def test_kernel_that_kills_itself_is_seen_with_the_signal(bench: Bench) -> None:
    async with bench.sandbox() as sandbox:
        await ended(bench, sandbox, "import os; os.kill(os.getpid(), 9)")
        status = await bench.driver.inspect(sandbox.id)
        assert status is not None
        assert (status.is_running, status.exit_code) == (False, 128 + 9)


async def test_death_seen_by_another_service_is_a_death(bench: Bench) -> None:
    another = await bench.another_driver()
    async with bench.sandbox() as sandbox:
        await ended(bench, sandbox, "import os; os._exit(7)")
        status = await another.inspect(sandbox.id)
        assert status is not None
        assert not status.is_running


async def test_other_deployment_is_never_listed(bench: Bench, sandbox: Sandbox) -> None:
    other = await bench.another_driver(deployment=f"{bench.deployment}x")
    assert await other.list_sandboxes() == set()
    assert sandbox.id in await bench.driver.list_sandboxes()


async def test_deployment_with_a_common_beginning_is_never_listed(bench: Bench, sandbox: Sandbox) -> None:
    other = await bench.another_driver(deployment=bench.deployment[:-1])
    assert sandbox.id not in await other.list_sandboxes()


async def test_launch_that_is_refused_leaves_nothing(bench: Bench) -> None:
    spec = bench.spec(disk_bytes=-1)
    with pytest.raises(SandboxFailed, match=spec.sandbox_id):
        await bench.driver.launch(spec)
    assert await bench.left_of(spec) == []


async def test_launch_with_an_unknown_runtime_leaves_nothing(bench: Bench) -> None:
    if not isinstance(bench.driver, DockerDriver):
        pytest.skip("a matter of Docker")
    spec = bench.spec()
    driver = await bench.another_driver(docker_runtime="no-such-runtime")
    with pytest.raises(SandboxFailed, match=spec.sandbox_id):
        await driver.launch(spec)
    assert await bench.left_of(spec) == []


async def test_launch_by_a_bwrap_that_hangs_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not isinstance(bench.driver, BubblewrapDriver):
        pytest.skip("a matter of bubblewrap")
    hanging = tmp_path / "bwrap"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(hanging.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("tci.sandbox.bubblewrap.START_SECONDS", 0.3)
    driver = BubblewrapDriver(settings=bench.settings, bwrap=hanging, deployment=bench.deployment)
    spec = bench.spec()
    with pytest.raises(SandboxFailed, match=spec.sandbox_id):
        await driver.launch(spec)
    assert await bench.left_of(spec) == []


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480])
async def test_launch_that_is_cancelled_leaves_nothing(bench: Bench, milliseconds: int) -> None:
    """A launch is cancelled when its time is over, at whatever point it is; SessionOpener then destroys."""
    spec = bench.spec()
    launch = asyncio.create_task(bench.driver.launch(spec))
    await asyncio.sleep(milliseconds / 1000)
    launch.cancel()
    await asyncio.wait({launch})
    assert launch.cancelled() or launch.exception() is None, launch.exception()
    await bench.driver.destroy(spec.sandbox_id)
    await asyncio.sleep(0.5)  # a launch that went on behind our back would be done by now
    left = await bench.left_of(spec)
    await tidy(bench, spec.kernel_key, spec.sandbox_id)
    assert left == []


async def test_new_driver_sees_and_destroys_what_an_older_one_launched(bench: Bench) -> None:
    another = await bench.another_driver()
    async with bench.sandbox() as sandbox:
        await sandbox.run("kept = 1")
        assert sandbox.id in await another.list_sandboxes()
        status = await another.inspect(sandbox.id)
        assert status is not None
        assert status.is_running
        sandbox.kernel.close()
        assert await run(bench.reconnect(sandbox.spec), "print(kept)") == "1\n"
        await another.destroy(sandbox.id)
        assert await another.inspect(sandbox.id) is None
        assert await bench.left_of(sandbox.spec) == []


async def test_first_run_of_a_new_connection_loses_no_output(bench: Bench, sandbox: Sandbox) -> None:
    for number in range(10):
        kernel = bench.reconnect(sandbox.spec)
        async with asyncio.timeout(10):
            assert await run(kernel, f"print({number})") == f"{number}\n", "outputs came before the subscription"
        kernel.close()


async def test_processes_of_the_code_end_with_the_sandbox(bench: Bench) -> None:
    name = f"survivor-{random_text(12)}"
    async with bench.sandbox() as sandbox:
        await sandbox.run(SURVIVORS.format(name=name))
        seen = await asyncio.to_thread(processes.eventually, lambda: len(processes.with_command(name)) >= 6)
        assert seen, processes.with_command(name)
        await bench.driver.destroy(sandbox.id)
        assert processes.with_command(name) == set()


async def test_processes_of_the_code_end_with_its_kernel(bench: Bench) -> None:
    name = f"survivor-{random_text(12)}"
    async with bench.sandbox() as sandbox:
        await sandbox.run(SURVIVORS.format(name=name))
        assert processes.with_command(name)
        await ended(bench, sandbox, "import os; os._exit(1)")
        assert await asyncio.to_thread(processes.eventually, lambda: not processes.with_command(name), 3)


async def test_sandboxes_are_in_no_process_group_of_ours(sandbox: Sandbox) -> None:
    """Ctrl-C in a terminal signals the foreground group and session: the service's, never a sandbox's."""
    found = processes.with_environment(sandbox.spec.kernel_key)
    assert found
    for pid in found:
        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getsid(pid) != os.getsid(0)
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN, "else nothing would have been shown"


async def test_launches_at_once_all_run(bench: Bench) -> None:
    specs = [bench.spec() for _ in range(4)]
    try:
        await asyncio.gather(*(bench.driver.launch(spec) for spec in specs))
        assert {spec.sandbox_id for spec in specs} <= await bench.driver.list_sandboxes()
    finally:
        await asyncio.gather(*(bench.driver.destroy(spec.sandbox_id) for spec in specs))
    assert [await bench.left_of(spec) for spec in specs] == [[]] * 4


async def test_damaged_directory_of_a_sandbox_harms_no_other(bench: Bench, sandbox: Sandbox) -> None:
    """What a crash or a full disk leaves behind must not stop the service from seeing the rest."""
    broken = bench.settings.run_dir / new_sandbox_id()
    broken.mkdir()
    (broken / "sandbox.json").write_text('{"deployment": "')
    try:
        assert sandbox.id in await bench.driver.list_sandboxes()
        await bench.driver.destroy(broken.name)
        assert not broken.exists()
    finally:
        (broken / "sandbox.json").unlink(missing_ok=True)
        if broken.exists():
            broken.rmdir()


async def ended(bench: Bench, sandbox: Sandbox, code: str) -> None:
    """Run code that ends the kernel, and wait until its driver knows how it ended."""
    running = asyncio.create_task(sandbox.run(code))
    give_up = time.monotonic() + 10
    while True:
        status = await bench.driver.inspect(sandbox.id)
        if status is not None and not status.is_running and status.exit_code is not None:
            break
        assert time.monotonic() < give_up, status
        await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.wait({running})


async def tidy(bench: Bench, kernel_key: str, sandbox_id: str) -> None:
    """End what a failing test found, so that it fails alone."""
    for pid in processes.with_environment(kernel_key):
        os.kill(pid, signal.SIGKILL)
    await bench.driver.destroy(sandbox_id)
