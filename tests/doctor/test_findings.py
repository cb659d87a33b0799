"""What the doctor makes of what it sees, case by case."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from tci.doctor import engine, host, installation
from tci.doctor.finding import Finding, Level, hole, ok, weak
from tci.doctor.report import WIDTH, Report
from tci.doctor.versions import known_runc_holes, parse_version
from tci.settings import Settings

OF_2025 = ["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"]

DEBIAN_12 = {
    "DefaultRuntime": "runc",
    "Runtimes": {"runc": {"path": "runc"}},
    "SecurityOptions": ["name=seccomp,profile=default"],
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "LiveRestoreEnabled": False,
    "CgroupVersion": "1",
}
"""What the engine of Debian 12 says of itself."""


def levels(**changed: Any) -> dict[str, Level]:
    """Return the level of each finding on an engine, some of its answer changed."""
    runtime = changed.pop("runtime", None)
    settings = Settings(docker_runtime=runtime, _env_file=None)
    version = {"Version": "20.10.24", "ApiVersion": "1.41", "Components": [{"Name": "runc", "Version": "1.4.1"}]}
    found = engine.look_at_engine(version, DEBIAN_12 | changed, settings)
    return {finding.subject: finding.level for finding in found}


@pytest.mark.parametrize(
    ("text", "holes"),
    [
        ("1.0.0-rc93", ["CVE-2024-21626", *OF_2025]),
        ("1.1.5+ds1", ["CVE-2024-21626", *OF_2025]),
        ("1.1.11", ["CVE-2024-21626", *OF_2025]),
        ("1.1.12", OF_2025),
        ("1.1.15", OF_2025),
        ("v1.2.7-0-g12345", OF_2025),
        ("1.2.8", []),
        ("1.3.2", OF_2025),
        ("1.3.3+ds1", []),
        ("1.4.0-rc.2", OF_2025),
        ("1.4.0-rc.3", []),
        ("1.4.0", []),
        ("1.5.0", []),
        ("2.0.1", []),
    ],
)
def test_known_holes_of_runc_are_told_by_its_version(text: str, holes: list[str]) -> None:
    version = parse_version(text)
    assert version is not None
    assert known_runc_holes(version) == holes


def test_old_runc_is_a_weakness_since_a_distribution_may_have_mended_it() -> None:
    assert engine.runc("1.1.5+ds1").level is Level.WEAK
    assert "check your distribution" in engine.runc("1.1.5+ds1").mend.casefold()
    assert engine.runc("unknown").level is Level.WEAK


@pytest.mark.parametrize(
    ("changed", "subject", "level"),
    [
        ({}, "engine's user", Level.WEAK),
        ({"SecurityOptions": ["name=seccomp", "name=userns"]}, "engine's user", Level.OK),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, "engine's user", Level.OK),
        ({}, "seccomp", Level.OK),
        ({"SecurityOptions": None}, "seccomp", Level.HOLE),
        ({}, "AppArmor", Level.WEAK),
        ({"SecurityOptions": ["name=apparmor"]}, "AppArmor", Level.OK),
        ({"SecurityOptions": ["name=selinux"]}, "AppArmor", Level.OK),
        ({}, "live-restore", Level.WEAK),
        ({"LiveRestoreEnabled": True}, "live-restore", Level.OK),
        ({}, "limits", Level.OK),
        ({"MemoryLimit": False}, "limits", Level.HOLE),
        ({"PidsLimit": False}, "limits", Level.HOLE),
        ({"CpuCfsQuota": False}, "limits", Level.WEAK),
        ({}, "swap", Level.OK),
        ({"SwapLimit": False}, "swap", Level.WEAK),
        ({}, "runtime", Level.WEAK),
        ({"runtime": "runsc"}, "runtime", Level.HOLE),
        ({"runtime": "runsc", "Runtimes": {"runsc": {}}}, "runtime", Level.OK),
        ({"runtime": "io.containerd.kata.v2", "Runtimes": {"io.containerd.kata.v2": {}}}, "runtime", Level.OK),
        ({"DefaultRuntime": "runsc"}, "runtime", Level.OK),
    ],
)
def test_engine_is_judged_by_what_it_says(changed: dict[str, Any], subject: str, level: Level) -> None:
    assert levels(**changed)[subject] is level


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (host.kernel("6.1.0-18-amd64"), Level.OK),
        (host.kernel("4.19.0"), Level.WEAK),
        (host.kernel("5.9.16"), Level.WEAK),
        (host.clock(dt.datetime(1970, 1, 1, tzinfo=dt.UTC)), Level.WEAK),
        (host.clock(dt.datetime(2027, 1, 1, tzinfo=dt.UTC)), Level.OK),
        (host.user_namespaces(["user/max_user_namespaces"], is_root=False), Level.HOLE),
        (host.user_namespaces(["user/max_user_namespaces"], is_root=True), Level.OK),
        (host.user_namespaces([], is_root=False), Level.OK),
        (host.bubblewrap("/usr/bin/bwrap", is_setuid=True), Level.WEAK),
        (host.bubblewrap("/usr/bin/bwrap", is_setuid=False), Level.OK),
        (host.bubblewrap_limits(has_cgroups=False), Level.WEAK),
        (host.swap(has_swap=True, is_counted=False), Level.WEAK),
        (host.swap(has_swap=False, is_counted=False), Level.OK),
        (installation.address("127.0.0.1", has_key=False), Level.OK),
        (installation.address("0.0.0.0", has_key=False), Level.HOLE),  # noqa: S104
        (installation.address("0.0.0.0", has_key=True), Level.WEAK),  # noqa: S104
        (installation.address("0.0.0.0", has_key=None), Level.WEAK),  # noqa: S104
        (installation.clock("Redis", 0.3), Level.OK),
        (installation.clock("Redis", -60.0), Level.WEAK),
        (installation.redis_access("redis://cache.internal"), Level.WEAK),
        (installation.redis_access("redis://:x@cache.internal"), Level.OK),
        (installation.redis_access("unix:///run/redis.sock"), Level.OK),
    ],
)
def test_finding_has_its_level_and_says_how_to_mend(finding: Finding, level: Level) -> None:
    assert finding.level is level
    assert bool(finding.mend) is (level is not Level.OK)


def test_full_disk_is_a_weakness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert host.disk("disk", tmp_path / "not" / "there").level is Level.OK
    monkeypatch.setattr(host, "MIN_FREE_BYTES", 2**70)
    assert host.disk("disk", tmp_path).level is Level.WEAK


async def test_installation_names_what_the_guard_would_refuse(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    settings = Settings(
        data_dir=tmp_path,
        bootstrap_api_key="changeme",
        redis_url="redis://:password@cache.invalid:1",
        database_url="postgresql://tci:tci@db.invalid/tci",
        _env_file=None,
    )
    found = [finding async for finding in installation.look_at_installation(settings)]
    holes = [finding.subject for finding in found if finding.level is Level.HOLE]
    assert holes == ["bootstrap key", "database password", "Redis password", "data directory"]
    assert "changeme" not in repr(found)


def test_report_is_aligned_and_fits() -> None:
    attacks = (Finding(Level.HOLE, "an attack", "the moon", tried="to fly " * 30), ok("b", "it is well " * 20))
    report = Report((ok("disk", "64 GiB"), weak("a longer subject", "so so", "Better.")), attacks)
    lines = report.as_text().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[1] == "ok    disk              64 GiB"
    assert lines[2] == "weak  a longer subject  so so"
    assert lines[3] == "                        mend: Better."
    assert lines[-1] == "Holes: 1. Weaknesses: 1. Attacks that were held: 1 of 2."
    assert report.has_hole
    assert not Report(report.findings, ()).has_hole
    assert json.loads(report.as_json())["counts"] == {"ok": 2, "weak": 1, "hole": 1}


def test_hole_in_the_settings_counts_like_one_in_the_jail() -> None:
    assert Report((hole("data directory", "open", "Close it."),), ()).has_hole
