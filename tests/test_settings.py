"""`.env.example` shows every setting, its default and its sentence, and loads."""

from pathlib import Path

import pytest

from tci.settings import Settings, total_memory_bytes

EXAMPLE = Path(__file__).parents[1] / ".env.example"


def shown(default: object) -> str:
    if default is None:
        return ""
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_example_shows_every_setting_with_its_default() -> None:
    expected = [
        f"# {field.description}\nTCI_{name.upper()}={shown(field.default)}"
        for name, field in Settings.model_fields.items()
    ]
    assert EXAMPLE.read_text().strip().split("\n\n")[1:] == expected


def test_example_as_env_file_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TCI_{name.upper()}", raising=False)
    assert Settings(_env_file=EXAMPLE) == Settings(_env_file=None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgres://h/d", "postgresql+asyncpg://h/d"),
        ("sqlite:////tmp/x.db", "sqlite+aiosqlite:////tmp/x.db"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
    ],
)
def test_database_url_gets_an_async_driver(url: str, expected: str) -> None:
    assert Settings(_env_file=None, database_url=url).sql_url == expected


def test_capacity_without_a_setting_comes_from_memory() -> None:
    assert Settings(_env_file=None).sandbox_capacity == total_memory_bytes() // (200 * 1024**2)
    assert Settings(_env_file=None, max_sandboxes=3).sandbox_capacity == 3


def test_readme_table_shows_every_setting() -> None:
    readme = (EXAMPLE.parent / "README.md").read_text()
    table = readme.split("<!-- settings: kept by tests/test_settings.py -->\n")[1].split("<!-- end")[0].strip()
    rows = []
    for name, field in Settings.model_fields.items():
        default = f"`{shown(field.default)}`" if shown(field.default) else ""
        rows.append(f"| `TCI_{name.upper()}` | {default} | {field.description} |")
    assert table.splitlines() == ["| setting | default | what it is |", "|---|---|---|", *rows]
