"""Prepares what a bubblewrap sandbox runs: the host's Python with the packages of `requirements.txt`, read-only.

The jail shows these packages in the place where its Python looks for installed ones. So inside it is a plain
Python, as in the Docker image: `pip install --user` shadows what is installed, and nothing of the host's is seen.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import sys
import sysconfig
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tci import resources
from tci.errors import SetupError
from tci.kernel.launcher import CACHES
from tci.paths import make_private
from tci.sandbox.bubblewrap_spec import Host, warm_arguments
from tci.sandbox.driver import HOME, SANDBOX_UID, Progress
from tci.sandbox.process import run
from tci.settings import Settings

ETC = {
    "passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\nuser:x:{SANDBOX_UID}:{SANDBOX_UID}::{HOME}:/bin/bash\n",
    "group": f"root:x:0:\nuser:x:{SANDBOX_UID}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
"""The few files that programs look up; the host's own stay outside."""


def environment_directory(settings: Settings) -> Path:
    """Return where the environment of this version and this Python is, or will be."""
    definition = resources.sandbox_definition()
    sources = b"".join((definition / name).read_bytes() for name in ("requirements.txt", "warm.py"))
    name = hashlib.sha256(sources + sys.version.encode() + _base_python().as_posix().encode()).hexdigest()[:12]
    return settings.data_dir / "environments" / name


def is_prepared(settings: Settings) -> bool:
    """Whether the environment is complete."""
    return (environment_directory(settings) / "complete").exists()


async def prepare_environment(settings: Settings, bwrap: Path, progress: Progress) -> None:
    """Make the environment unless it is there; raises SetupError with what pip said."""
    target = environment_directory(settings)
    make_private(target.parent)
    with target.with_suffix(".lock").open("w") as lock:
        # Two that prepare at once would delete each other's files; the second finds it done.
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        await _prepare(target, settings, bwrap, progress)


async def _prepare(target: Path, settings: Settings, bwrap: Path, progress: Progress) -> None:
    if is_prepared(settings):
        progress(f"Sandbox environment {target.name} is there.")
        return
    progress(f"Installing the sandbox's packages into {target}; the first time takes a few minutes.")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()  # noqa: ASYNC240 (one call; what follows takes minutes)
    await _run([str(_base_python()), "-m", "venv", str(target / "venv")], settings, progress)
    pip = [str(target / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    requirements = resources.sandbox_definition() / "requirements.txt"
    await _run([*pip, "install", "--progress-bar", "off", "-r", str(requirements)], settings, progress)
    _arrange(target)
    progress("Filling the caches of matplotlib and numba; this takes a minute.")
    script = resources.sandbox_definition() / "warm.py"
    await _run(warm_arguments(describe_host(settings, bwrap), script), settings, progress)
    (target / "complete").touch()
    progress("Sandbox environment is ready.")


def describe_host(settings: Settings, bwrap: Path) -> Host:
    """Return what the jail takes from this machine."""
    prefix = Path(sys.base_prefix).resolve()
    # As the base interpreter sees them, not as the service's own virtual environment does.
    variables = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    schemes = {"posix_prefix", sysconfig.get_default_scheme(), "posix_local", "deb_system"} & set(
        sysconfig.get_scheme_names()
    )
    looked_in = {Path(sysconfig.get_path("purelib", scheme, vars=variables)) for scheme in schemes}
    site_packages = Path(sysconfig.get_path("purelib", "posix_prefix", vars=variables))
    if "posix_local" in schemes:  # Debian's Python looks in /usr/local/lib/pythonX.Y/dist-packages
        site_packages = Path(sysconfig.get_path("purelib", "posix_local", vars=variables))
    return Host(
        bwrap=bwrap,
        is_root=os.geteuid() == 0,
        python=_base_python(),
        prefix=prefix,
        site_packages=site_packages,
        hidden=tuple(sorted(path for path in looked_in - {site_packages} if path.is_dir())),
        environment=environment_directory(settings),
        launcher=resources.launcher(),
    )


def _base_python() -> Path:
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def _arrange(target: Path) -> None:
    """Put the parts where `bubblewrap_spec` expects them, with scripts that name no path of this machine."""
    venv = target / "venv"
    library = next((venv / "lib").glob("python*"))
    (target / "site-packages").symlink_to(library.relative_to(target) / "site-packages")
    scripts = target / "bin"
    scripts.mkdir()
    for script in (venv / "bin").iterdir():
        text = script.read_bytes() if script.is_file() and not script.is_symlink() else b""
        if text.startswith(b"#!") and b"python" in text.splitlines()[0]:
            (scripts / script.name).write_bytes(b"#!/usr/bin/env python3\n" + text.split(b"\n", 1)[1])
            (scripts / script.name).chmod(0o755)
    for name in ("python", "python3"):
        (scripts / name).symlink_to(_base_python())
    for cache in CACHES.values():
        (target / Path(cache).name).mkdir()
    (target / "etc").mkdir()
    for name, content in ETC.items():
        (target / "etc" / name).write_text(content)


async def _run(command: Sequence[str], settings: Settings, progress: Progress, **variables: str) -> None:
    environment = os.environ | variables
    if settings.pip_index_url:
        environment["PIP_INDEX_URL"] = settings.pip_index_url
    if settings.ca_bundle:
        environment["PIP_CERT"] = str(settings.ca_bundle)
    last: deque[str] = deque(maxlen=20)

    def note(line: str) -> None:
        last.append(line)
        progress(line)

    if await run(command, note, environment=environment):
        message = f"{' '.join(command[:4])} ... failed:\n" + "\n".join(last)
        raise SetupError(message)
