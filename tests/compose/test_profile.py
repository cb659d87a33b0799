"""The optional part of docker-compose.yml, as docker compose itself reads it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.compose.conftest import compose_command
from tests.conftest import ROOT


def test_metrics_profile_is_valid_and_holds_prometheus_and_grafana_alone(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    (tmp_path / "env").touch()
    given = {"TCI_ENV_FILE": str(tmp_path / "env"), "POSTGRES_PASSWORD": "x", "REDIS_PASSWORD": "x"}
    result = subprocess.run(
        [*compose_command(), "--profile", "metrics", "config"],
        env=os.environ | given,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    services = yaml.safe_load(result.stdout)["services"]
    assert {name for name, service in services.items() if service.get("profiles")} == {"prometheus", "grafana"}
    for name in ("prometheus", "grafana"):
        mounted = [
            volume.split(":")[0] if isinstance(volume, str) else volume["source"]
            for volume in services[name]["volumes"]
        ]
        assert [path for path in mounted if path.startswith("/") and not Path(path).exists()] == []
