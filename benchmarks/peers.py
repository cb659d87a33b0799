"""The environment of the tools that we are compared with: a venv of their own, kept between runs."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.conftest import CACHE, ROOT

TOOLS = (
    "jupyter_kernel_gateway==3.0.1",
    "llm-sandbox[docker]==0.3.46",
    "ipykernel",
    "matplotlib",
    "numpy",
    "orjson",
    "pandas",
)
"""Those without a version have that of the sandbox's own requirements, so that both kernels are the same."""

REQUIREMENTS = ROOT / "docker" / "sandbox" / "requirements.txt"


def peers_environment() -> Path:
    """Return the directory of the environment's programs; the first time installs it, in about a minute."""
    digest = hashlib.sha256("\n".join((sys.version, *TOOLS, REQUIREMENTS.read_text())).encode()).hexdigest()[:12]
    directory = CACHE / "benchmarks" / digest
    if not (directory / "complete").exists():
        print(f"Installing the tools to compare with into {directory}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        install = [directory / "bin" / "python", "-m", "pip", "install", "--constraint", str(REQUIREMENTS), *TOOLS]
        subprocess.run(install, check=True)
        (directory / "complete").touch()
    return directory / "bin"
