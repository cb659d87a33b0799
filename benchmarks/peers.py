"""The environment of the tools that we are compared with: a venv of their own, kept between runs."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.conftest import CACHE, ROOT

TOOLS = (
    "jupyter_kernel_gateway==3.0.1",
    "jupyter_server==2.21.1",
    "llm-sandbox[docker]==0.3.46",
    "ipykernel",
    "matplotlib",
    "numpy",
    "orjson",
    "pandas",
)
"""Those without a version have that of the sandbox's own requirements, so that both kernels are the same."""

REQUIREMENTS = ROOT / "docker" / "sandbox" / "requirements.txt"


def programs_of_peers() -> Path:
    """Return the directory of the environment's programs, whether it is there or not."""
    return _directory() / "bin"


def install_peers() -> None:
    """Make the environment, in about a minute, if it is not there."""
    directory = _directory()
    if (directory / "complete").exists():
        return
    print(f"Installing the tools to compare with into {directory}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
    pip = [directory / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", str(REQUIREMENTS), *TOOLS], check=True)
    (directory / "complete").touch()


def _directory() -> Path:
    digest = hashlib.sha256("\n".join((sys.version, *TOOLS, REQUIREMENTS.read_text())).encode()).hexdigest()[:12]
    return CACHE / "benchmarks" / digest
