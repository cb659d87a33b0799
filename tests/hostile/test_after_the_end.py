"""After the end of a sandbox nothing of it is left, and nothing of it reaches the next one."""

import pytest

from tci.doctor.attacks import ATTACKS, BY_NAME, plant_code
from tci.doctor.attacks.toolkit import Target
from tci.doctor.outcome import run
from tests.conftest import Service
from tests.hostile import host
from tests.hostile.cases import STAYING
from tests.hostile.conftest import attacked
from tests.sandbox.conftest import Bench
from tests.sandbox.processes import eventually

LOOKING_FOR_ANOTHER = ("other_files", "shared_memory", "abstract_sockets", "other_loopback", "signals")


async def test_destroyed_sandbox_of_hostile_code_leaves_nothing_on_the_host(bench: Bench, target: Target) -> None:
    volumes = set(host.docker("volume", "ls", "--quiet"))
    async with bench.sandbox() as sandbox:
        await sandbox.run(STAYING)
        assert await run(sandbox.kernel, plant_code(target)) == "held: planted\n"
        for name in ("mounts", "new_namespaces", "control_groups", "socket_directory"):
            await attacked(sandbox, BY_NAME[name], target)
        places = host.places_of(sandbox.id, sandbox.spec.socket_directory)
        expected = {"processes", "directories"} | ({"tasks", "groups"} if places.groups else set())
        assert expected <= places.left().keys(), "the check below would pass on anything"
        await bench.driver.destroy(sandbox.id)
        assert eventually(lambda: not places.left(), 5), places.left()
    assert set(host.docker("volume", "ls", "--quiet")) <= volumes


@pytest.mark.parametrize("is_used_first", [True, False])
async def test_new_sandbox_sees_nothing_of_a_used_one(bench: Bench, target: Target, is_used_first: bool) -> None:
    async with bench.sandbox() as used:
        assert await run(used.kernel, plant_code(target)) == "held: planted\n"
        if is_used_first:
            await bench.driver.destroy(used.id)
        async with bench.sandbox() as new:
            assert await new.run("print('plant' in globals())") == "False\n"
            for name in LOOKING_FOR_ANOTHER:
                outcome = await attacked(new, BY_NAME[name], target)
                assert outcome.is_held, f"{name}: {outcome.detail}"


async def test_used_sandbox_finds_its_own_marker_so_the_attacks_can_fail(bench: Bench, target: Target) -> None:
    async with bench.sandbox() as used:
        assert await run(used.kernel, plant_code(target)) == "held: planted\n"
        for name in LOOKING_FOR_ANOTHER:
            assert not (await attacked(used, BY_NAME[name], target)).is_held, name


def test_session_of_another_account_sees_nothing_of_a_session(service: Service, target: Target) -> None:
    used = service.run(plant_code(target))["session_id"]
    key = service.new_key("another account")
    for name in LOOKING_FOR_ANOTHER:
        body = {"code": BY_NAME[name].code(target), "language": "python"}
        answer = service.post(body, headers={"Authorization": f"Bearer {key}"}).json()["data"]
        assert answer["session_id"] != used
        [output] = answer["outputs"]
        assert output["data"].splitlines()[-1].startswith("held: "), output


def test_looking_for_another_is_a_part_of_the_table() -> None:
    assert set(LOOKING_FOR_ANOTHER) <= {attack.name for attack in ATTACKS}
