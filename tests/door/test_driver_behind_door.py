"""The driver's contract, held behind the door as it is before the engine."""

import datetime as dt
import os

from tci.sandbox.cgroup import cgroup_of, cgroup_of_container
from tci.sandbox.docker import _cgroup
from tests.sandbox.conftest import Bench
from tests.sandbox.test_driver_contract import (  # noqa: F401 (collected here, with this directory's bench)
    sandbox,
    test_damaged_directory_of_a_sandbox_harms_no_other,
    test_death_seen_by_another_service_is_a_death,
    test_destroy_at_once_by_many_ends_it_for_each,
    test_destroy_at_once_by_two_services_ends_it_for_each,
    test_destroy_twice_does_nothing_more,
    test_destroyed_sandbox_leaves_nothing,
    test_kernel_that_exits_is_seen_with_its_exit_code,
    test_kernel_that_kills_itself_is_seen_with_the_signal,
    test_launch_that_is_cancelled_leaves_nothing,
    test_launch_that_is_refused_leaves_nothing,
    test_launch_with_an_unknown_runtime_leaves_nothing,
    test_launched_sandbox_runs_and_its_kernel_answers,
    test_launches_at_once_all_run,
    test_new_driver_sees_and_destroys_what_an_older_one_launched,
    test_other_deployment_is_never_listed,
    test_processes_of_the_code_end_with_the_sandbox,
    test_sandbox_left_alone_goes_on,
    test_unknown_id_is_not_seen_and_may_be_destroyed,
)


async def test_usage_told_by_the_engine_is_that_of_the_control_group(bench: Bench) -> None:
    """What a service in a container gets, to which the engine's processes are not shown."""
    async with bench.sandbox() as sandbox:  # noqa: F811 (one of its own, that nobody else measures)
        await sandbox.run("block = bytearray(50_000_000); sum(range(3_000_000))")
        counted = await bench.driver.usage(sandbox.id)
        bench.driver._cgroups[sandbox.id] = None  # type: ignore[attr-defined]
        told = await bench.driver.usage(sandbox.id)
        del bench.driver._cgroups[sandbox.id]  # type: ignore[attr-defined]
        again = await bench.driver.usage(sandbox.id)
        assert counted is not None
        assert told is not None
        assert again is not None
        assert dt.timedelta(milliseconds=1) < counted.cpu <= told.cpu <= again.cpu
        assert 50_000_000 < counted.peak_memory_bytes <= told.peak_memory_bytes <= again.peak_memory_bytes


async def test_usage_told_by_the_engine_of_a_dead_sandbox_is_none(bench: Bench) -> None:
    async with bench.sandbox() as sandbox:  # noqa: F811 (as above)
        bench.driver._cgroups[sandbox.id] = None  # type: ignore[attr-defined]
        assert await bench.driver.usage(sandbox.id) is not None
        await bench.driver.destroy(sandbox.id)
        bench.driver._cgroups[sandbox.id] = None  # type: ignore[attr-defined]
        assert await bench.driver.usage(sandbox.id) is None
        bench.driver._cgroups.pop(sandbox.id)  # type: ignore[attr-defined]


async def test_usage_is_found_by_the_name_of_the_container(bench: Bench) -> None:
    """What a service in a container gets, to which the host's control groups are shown and its processes are not."""
    async with bench.sandbox() as sandbox:  # noqa: F811 (as above)
        found = await bench.driver._engine.containers.container(f"tci-{sandbox.id}").show()  # type: ignore[attr-defined]
        by_name, by_process = cgroup_of_container(found["Id"]), cgroup_of(found["State"]["Pid"])
        assert by_name is not None
        assert by_process is not None
        assert {path.resolve() for path in by_name.directories.values()} == {
            path.resolve() for path in by_process.directories.values()
        }
        # A number that is another process's, as in a container: that one's group is not taken for the sandbox's.
        found["State"]["Pid"] = os.getpid()
        assert _cgroup(found) == by_name
        found["Id"] = "0" * 64
        assert _cgroup(found) is None
