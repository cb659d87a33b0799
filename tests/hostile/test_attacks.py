"""Every attack of `tci.doctor.attacks` in a real sandbox, beside a neighbour, with decoys on the host."""

from pathlib import Path

import pytest

from tci.doctor.attacks import ATTACKS, Attack
from tci.doctor.attacks.toolkit import Target
from tests.hostile.conftest import answers, attacked
from tests.sandbox.conftest import Bench, Sandbox


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_attack_is_held_and_the_session_goes_on(attack: Attack, victim: Sandbox, target: Target) -> None:
    outcome = await attacked(victim, attack, target)
    assert outcome.is_held, outcome.detail
    assert await answers(victim)


async def test_names_of_attacks_are_unique_and_each_says_what_it_tries() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    for attack in ATTACKS:
        assert attack.tries.endswith("."), attack.name


async def test_decoys_are_untouched_and_the_neighbour_answers(
    neighbour: Sandbox, target: Target, bench: Bench, victim: Sandbox
) -> None:
    assert Path(target.host_paths[0]).read_text() == target.marker
    assert target.marker.encode() in Path(f"/proc/{target.host_pid}/cmdline").read_bytes(), "it was ended"
    assert sorted(path.name for path in bench.settings.run_dir.iterdir()) == sorted([neighbour.id, victim.id])
    assert await answers(neighbour)
