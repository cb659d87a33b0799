"""Files that travel with the service but are not Python: the jail's definition and the migrations."""

import json
import platform
from pathlib import Path

PACKAGED = Path(__file__).parent / "_resources"
"""Where a wheel carries them (see `force-include` in pyproject.toml)."""

CHECKOUT = Path(__file__).parents[2]
"""The repository, when the package is installed from it in place."""


def sandbox_definition() -> Path:
    """Return the directory that defines the jail: Dockerfile, requirements.txt, seccomp.json."""
    packaged = PACKAGED / "sandbox"
    return packaged if packaged.is_dir() else CHECKOUT / "docker" / "sandbox"


def seccomp_profile() -> str:
    """Return the system calls that a sandbox may make, in Docker's format (JSON, without the line breaks)."""
    profile = json.loads((sandbox_definition() / "seccomp.json").read_text())
    return json.dumps(profile, separators=(",", ":"))


def seccomp_filter() -> Path | None:
    """Return the same compiled for this machine's processor, or None where that is not one of the usual two."""
    compiled = sandbox_definition() / "seccomp" / f"{platform.machine()}.bpf"
    return compiled if compiled.is_file() else None


def migrations() -> Path:
    """Return alembic's script directory."""
    packaged = PACKAGED / "alembic"
    return packaged if packaged.is_dir() else CHECKOUT / "alembic"


def launcher() -> Path:
    """Return the program that becomes the kernel inside a sandbox."""
    return Path(__file__).parent / "kernel" / "launcher"


def web() -> Path:
    """Return the files of the two pages: markup, styles, scripts."""
    return Path(__file__).parent / "web"
