"""Files that travel with the service but are not Python: the jail's definition and the migrations."""

from pathlib import Path

PACKAGED = Path(__file__).parent / "_resources"
"""Where a wheel carries them (see `force-include` in pyproject.toml)."""

CHECKOUT = Path(__file__).parents[2]
"""The repository, when the package is installed from it in place."""


def sandbox_definition() -> Path:
    """Return the directory that defines the jail: Dockerfile, requirements.txt."""
    packaged = PACKAGED / "sandbox"
    return packaged if packaged.is_dir() else CHECKOUT / "docker" / "sandbox"


def migrations() -> Path:
    """Return alembic's script directory."""
    packaged = PACKAGED / "alembic"
    return packaged if packaged.is_dir() else CHECKOUT / "alembic"


def launcher() -> Path:
    """Return the program that becomes the kernel inside a sandbox."""
    return Path(__file__).parent / "kernel" / "launcher"
