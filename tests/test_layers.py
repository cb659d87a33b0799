"""Imports go down only: mcp -> api -> sessions -> {kernel, sandbox, storage}; beside them doctor, door -> sandbox."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

BOTTOM = {"errors", "guard", "ids", "locks", "log", "loops", "metrics", "paths", "resources", "settings", "stages"}
BOTTOM |= {"tracing", "__init__"}
"""Modules that anything may import, and that import no room."""

TOP = {"app", "cli", "serving", "__main__"}
"""Modules that build everything, and that no room imports."""

MAY_IMPORT: dict[str, set[str]] = {
    "api": {"api", "sessions", "kernel", "sandbox", "storage"},
    "mcp": {"mcp", "api", "sessions", "kernel", "storage"},
    "door": {"door", "sandbox"},
    "doctor": {"doctor", "egress", "kernel", "sandbox", "storage"},
    "sessions": {"sessions", "kernel", "sandbox", "storage", "egress"},
    "egress": {"egress"},
    "kernel": {"kernel"},
    "sandbox": {"sandbox"},
    "storage": {"storage"},
}
"""Rooms that each room may import, besides the bottom. api reaches below sessions for the values it shows."""

LAUNCHER = "tci.kernel.launcher"
"""The program that a sandbox launches; its constants are what a driver must know of it."""

ATTACKS = "tci.doctor.attacks"
"""The programs that are sent into a sandbox to attack it."""

MODULES = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.glob("tci/**/*.py")}


def test_every_module_is_looked_at() -> None:
    assert {"tci.app", "tci.api.routes", "tci.sandbox.docker", f"{LAUNCHER}.start"} <= MODULES.keys()
    rooms = {name.split(".")[1] for name in MODULES if name.count(".") >= 2}
    assert rooms - TOP == MAY_IMPORT.keys(), "a new room needs a line above"
    assert {name.split(".")[1] for name in MODULES if name.count(".") == 1} <= BOTTOM | TOP


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_of_module_go_down_only(name: str) -> None:
    assert [found for found in imported(MODULES[name]) if not may_import(name, found)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(LAUNCHER)])
def test_launcher_imports_nothing_of_tci(name: str) -> None:
    assert list(imported(MODULES[name])) == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(f"{ATTACKS}.")])
def test_attack_imports_nothing_but_the_toolkit(name: str) -> None:
    if name.rsplit(".", 1)[1] not in {"__init__", "attack", "toolkit"}:
        assert set(imported(MODULES[name])) == {f"{ATTACKS}.toolkit"}, "its source runs alone, inside the sandbox"


@pytest.mark.parametrize("name", ["__init__", "__main__", "start", "privileges"])
def test_launcher_imports_only_what_python_has_before_its_rights_are_gone(name: str) -> None:
    top = ast.parse(MODULES[f"{LAUNCHER}.{name}"].read_text()).body
    names = {found.split(".")[0] for statement in top for found in names_of(statement)}
    assert names <= sys.stdlib_module_names | {""}


def test_web_framework_is_known_to_the_api_alone() -> None:
    for name, path in MODULES.items():
        if name.startswith("tci.api") or name.split(".")[1] in TOP:
            continue
        found = {imported_name.split(".")[0] for imported_name in all_imports(path)}
        assert found.isdisjoint({"fastapi", "starlette", "uvicorn"}), name


@pytest.mark.parametrize(
    ("importer", "name"),
    [
        ("tci.kernel.client", "tci.sandbox.driver"),
        ("tci.storage.database", "tci.kernel.messages"),
        ("tci.sandbox.docker", "tci.kernel.client"),
        ("tci.sessions.service", "tci.api.models"),
        ("tci.errors", "tci.storage.tables"),
        ("tci.guard", "tci.sandbox.docker"),
        ("tci.doctor.run", "tci.sessions.opener"),
        ("tci.sessions.opener", "tci.doctor.run"),
        ("tci.api.routes", "tci.app"),
        ("tci.api.mcp_mount", "tci.mcp.server"),
        ("tci.door.door", "tci.sessions.opener"),
        ("tci.sessions.opener", "tci.door.request"),
    ],
)
def test_import_that_goes_up_or_aside_is_found(importer: str, name: str) -> None:
    assert not may_import(importer, name)


def may_import(importer: str, name: str) -> bool:
    """Whether a module may import a module of tci."""
    here, there = room(importer), room(name)
    if here in TOP:
        return True
    if here in {"sandbox", "door"} and name == LAUNCHER:
        return True
    if there in BOTTOM:
        return True
    return there in MAY_IMPORT.get(here, set())


def room(name: str) -> str:
    """Return the second part of a module's name: its room, or itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path: Path) -> Iterator[str]:
    """Yield every module of tci that a file imports, wherever in it."""
    for name in all_imports(path):
        if name.split(".")[0] == "tci":
            yield name


def all_imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        yield from names_of(node)


def names_of(node: ast.AST) -> Iterator[str]:
    """Yield the modules that one statement imports; `from tci.sandbox import choose` names a module too."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")  # relative ones are the launcher's, within itself
        whole = {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys()
        yield from whole or {module}
