"""What the documents name is there: tests, files, settings."""

import re
from pathlib import Path

import pytest

from tci.settings import Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTS = {name for file in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_and_file_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"`([^`\n]+)`", document.read_text())
    assert [name for name in named if re.fullmatch(r"test_\w+", name) and name not in TESTS] == []
    paths = [
        name for name in named if re.fullmatch(r"(src|tests|docker|docs|examples|alembic|benchmarks)/[\w./-]+", name)
    ]
    assert [name for name in paths if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "docker-compose.yml"], ids=lambda path: path.name)
def test_every_setting_that_a_document_names_exists(document: Path) -> None:
    settings = {f"TCI_{name.upper()}" for name in Settings.model_fields}
    others = {
        "TCI_API_KEY",
        "TCI_ADMIN_KEY",
        "TCI_BASE_URL",
        "TCI_TEST_REQUIRE_ALL",
    }  # of the examples, and of the tests
    others |= {"TCI_DATA", "TCI_ENGINE_SOCKET", "TCI_ENV_FILE", "TCI_IMAGE", "TCI_PUBLISH"}  # of docker-compose.yml
    named = set(re.findall(r"\bTCI_[A-Z_]+[A-Z]\b", document.read_text()))
    assert named <= settings | others
