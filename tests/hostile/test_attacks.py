"""Every attack of `tci.doctor.attacks` in a real sandbox, beside a neighbour, with decoys on the host."""

import errno
import os
import signal
from pathlib import Path

import pytest

from tci.doctor.attacks import ATTACKS, Attack
from tci.doctor.attacks.toolkit import Attempts, Target, in_child, run_attack
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


def test_attack_that_breaks_is_never_taken_for_held(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_target: Target, attempts: Attempts) -> None:
        attempts.stop("something else")
        raise RuntimeError("a bug")

    run_attack(broken, "{}")
    assert capsys.readouterr().out == "open: could not be tried (RuntimeError: a bug)\n"


def test_attempt_with_an_error_that_is_no_refusal_has_reached_something() -> None:
    attempts = Attempts()
    attempts.attempt("call", os.stat, "/no/such/file", refusals=frozenset({errno.EPERM}))
    assert attempts.verdict() == "open: call (ENOENT)"


def test_attempt_that_is_refused_is_held() -> None:
    attempts = Attempts()
    attempts.attempt("read", os.stat, "/no/such/file")
    assert attempts.verdict() == "held: ENOENT"


def test_child_that_is_killed_is_an_error_of_the_attempt() -> None:
    with pytest.raises(ChildProcessError):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_child_that_breaks_is_no_refusal() -> None:
    with pytest.raises(RuntimeError, match="ValueError"):
        in_child(int, "no number")
