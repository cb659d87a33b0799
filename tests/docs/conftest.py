"""Runs the blocks of a document, one after the other, as its reader would."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, Service
from tests.docs.blocks import Block
from tests.sdk.conftest import KEPT_VARIABLES, Sdks, sdk_cache, sdks  # noqa: F401 (fixtures)

DOCUMENTED_URL = "http://127.0.0.1:8000"
DOCUMENTED_KEY = '"tci_..."'
SECONDS = 120


@dataclass
class Reader:
    """Somebody with a directory, a shell whose variables last, a service and a key of their own."""

    service: Service
    sdks: Sdks
    directory: Path
    environment: dict[str, str]

    def run(self, block: Block) -> str:
        """Run a block and return what it printed; it must end well."""
        text = block.text.replace(DOCUMENTED_URL, self.service.url)
        text = text.replace(DOCUMENTED_KEY, f'"{self.environment["TCI_API_KEY"]}"')
        return {"sh": self._run_sh, "python": self._run_python, "typescript": self._run_typescript}[block.language](
            block, text
        )

    def _run_sh(self, block: Block, text: str) -> str:
        variables = self.directory / ".variables"
        script = f"set -eu -o pipefail -o allexport\n{text}\nset +o allexport\nenv -0 > {variables}\n"
        printed = self._start(["bash", "-c", script], block)
        pairs = (pair.partition("=") for pair in variables.read_text().split("\0") if pair)
        self.environment = {name: value for name, _, value in pairs}
        return printed

    def _run_python(self, block: Block, text: str) -> str:
        python = sys.executable
        for word in ("1x", "2x"):
            if word in block.words:
                python = self.sdks.command(f"python-{word}")[0]
        return self._start([python, "-c", text], block)

    def _run_typescript(self, block: Block, text: str) -> str:
        node, beside = self.sdks.command("typescript")
        modules = self.directory / "node_modules"
        if not modules.exists():
            modules.symlink_to(Path(beside).parent / "node_modules")
        script = self.directory / f"block-{block.line}.mjs"
        script.write_text(text)
        return self._start([node, "--preserve-symlinks", str(script)], block)

    def _start(self, command: list[str], block: Block) -> str:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        if done.returncode != 0:
            pytest.fail(f"line {block.line} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}", pytrace=False)
        return done.stdout


@pytest.fixture
def reader(live_service: Service, sdks: Sdks, tmp_path: Path, request: pytest.FixtureRequest) -> Reader:  # noqa: F811
    """Whoever reads a document for the first time."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    account = f"reader-of-{request.node.callspec.id}"
    admin = live_service.tci("keys", "create", "--account", f"{account}-admin", "--admin").stdout.strip()
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "HOME": str(tmp_path),
        "TCI_API_KEY": live_service.new_key(account),
        "TCI_ADMIN_KEY": admin,
        "TCI_BASE_URL": live_service.url,
        "TOGETHER_NO_BANNER": "1",
    }
    return Reader(live_service, sdks, tmp_path, environment)
