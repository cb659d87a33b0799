"""A Docker engine of one's own, which can be stopped, killed and started again beside the machine's."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import missing
from tests.sandbox import processes
from tests.storage import servers

START_SECONDS = 60.0


@dataclass
class Engine:
    """One dockerd, without a network of its own."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None
    containerd: subprocess.Popen[bytes] | None = None
    """Apart from it, as packages install it: one that dockerd runs would be killed with it."""

    @property
    def host(self) -> str:
        """How it is reached."""
        return f"unix://{self.directory}/docker.sock"

    def start(self, *, live_restore: bool) -> None:
        """Start it and wait until it answers."""
        options = {
            "data-root": self.directory / "data",
            "exec-root": self.directory / "exec",
            "pidfile": self.directory / "docker.pid",
            "host": self.host,
            "containerd": self._address,
            "bridge": "none",
            "iptables": "false",
            "live-restore": str(live_restore).lower(),
        }
        (self.directory / "docker.pid").unlink(missing_ok=True)  # of one that was killed
        with (self.directory / "log").open("ab") as log:
            arguments = [f"--{name}={value}" for name, value in options.items()]
            self.process = subprocess.Popen(["dockerd", *arguments], stdout=log, stderr=log, start_new_session=True)
        assert processes.eventually(self.answers, START_SECONDS), (self.directory / "log").read_text()[-3000:]

    def start_containerd(self) -> None:
        """Start what starts its containers."""
        places = {name: self.directory / f"containerd-{name}" for name in ("root", "state")}
        options = [f"--{name}={place}" for name, place in places.items()]
        with (self.directory / "log").open("ab") as log:
            command = ["containerd", *options, f"--address={self._address}"]
            self.containerd = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        assert processes.eventually(self._address.exists, START_SECONDS)

    @property
    def _address(self) -> Path:
        return self.directory / "containerd.sock"

    def answers(self) -> bool:
        """Whether it takes a request."""
        command = ["docker", "--host", self.host, "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=START_SECONDS)

    def load(self, image: str) -> None:
        """Take an image over from the machine's engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
            command = ["docker", "--host", self.host, "load", "--quiet"]
            subprocess.run(command, stdin=save.stdout, check=True, capture_output=True)

    def clean(self) -> None:
        """End it, and what it has left running and mounted."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if self.containerd is not None:
            self.containerd.terminate()
            self.containerd.wait(timeout=START_SECONDS)
        for pid in processes.with_command(str(self.directory)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.directory}/")]):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


@contextmanager
def engine(image: str) -> Iterator[Engine]:
    """Run an engine that has an image, with live-restore."""
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        missing("no Docker engine can be started here")
    with servers.short_directory() as directory:
        built = Engine(directory)
        try:
            built.start_containerd()
            built.start(live_restore=True)
            built.load(image)
            yield built
        finally:
            built.clean()
