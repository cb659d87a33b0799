"""Control groups that nobody uses any more."""

import os
import time
from pathlib import Path

import pytest

from tci.ids import new_sandbox_id
from tci.sandbox.cgroup import can_make_cgroups, cgroup_named, remove_abandoned_groups


@pytest.fixture(autouse=True)
def groups() -> None:
    """Leave these tests out where no group can be made."""
    if not can_make_cgroups():
        pytest.skip("no control group can be made here")


def make(name: str) -> list[Path]:
    directories = list(cgroup_named(name).directories.values())
    for directory in directories:
        directory.mkdir()
    return directories


def test_old_empty_group_is_removed_and_a_young_one_stays() -> None:
    directories = make(new_sandbox_id())
    try:
        remove_abandoned_groups()
        assert all(directory.exists() for directory in directories)
        for directory in directories:
            os.utime(directory, (0, 0))
        remove_abandoned_groups()
        assert not any(directory.exists() for directory in directories)
    finally:
        for directory in directories:
            if directory.exists():
                directory.rmdir()


def test_old_group_in_use_stays() -> None:
    directories = make(new_sandbox_id())
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        for directory in directories:
            (directory / "cgroup.procs").write_text(str(child))
            os.utime(directory, (0, 0))
        remove_abandoned_groups()
        assert all(directory.exists() for directory in directories)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        for directory in directories:
            directory.rmdir()
