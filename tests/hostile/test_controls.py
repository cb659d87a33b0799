"""Each control matters: with it switched off, the attacks that it stops are open. So no attack's test is empty."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tci.doctor.attacks import BY_NAME
from tci.doctor.attacks.toolkit import Target
from tests.hostile.conftest import attacked
from tests.hostile.controls import CONTROLS, Control
from tests.hostile.switched_off import switched_off
from tests.sandbox.conftest import Bench

NEEDS_NOTHING = {
    "passwords", "kernel_memory", "device_nodes", "mounts", "other_namespaces", "machine", "handles", "clock_and_name",
    "other_numbers", "tracing", "names", "groups", "unusual_sockets", "netlink_sockets", "other_files",
    "other_loopback", "raised_limits", "priority",
}  # fmt: skip
"""Attacks that are stopped by several of the controls at once; none is in the table for them."""


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name.replace(" ", "_"))
async def test_attack_is_open_without_control(
    control: Control,
    bench: Bench,
    target: Target,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    off = control.off(bench.driver.name)
    if off is None:
        record_property("control", (control.name, bench.driver.name, f"not switched off: {control.note}"))
        return
    decoy = Path(target.host_paths[0]).parent
    with switched_off(off, bench=bench, decoy=decoy, directory=tmp_path):
        async with bench.sandbox() as sandbox:
            outcomes = [await attacked(sandbox, BY_NAME[name], target) for name in control.shown_by]
    found = [f"{outcome.attack.name}: {outcome.detail[:60]}" for outcome in outcomes if not outcome.is_held]
    record_property("control", (control.name, bench.driver.name, "; ".join(found) or "NOTHING"))
    assert [outcome.attack.name for outcome in outcomes if outcome.is_held] == [], "the control changes nothing"
    assert not [line for line in found if "could not be tried" in line]


def test_every_attack_is_shown_by_a_control_or_named_as_stopped_by_several() -> None:
    shown = {name for control in CONTROLS for name in control.shown_by}
    assert shown | NEEDS_NOTHING == BY_NAME.keys()
    assert not shown & NEEDS_NOTHING
