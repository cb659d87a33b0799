"""The Docker jail as data: a pure function from what to launch to what the engine is asked for."""

import json
from dataclasses import dataclass
from typing import Any

from tci.kernel.launcher import PROXY_ADDRESS, SOCKET_DIRECTORY
from tci.sandbox.driver import HOME, SANDBOX_UID, SandboxSpec
from tci.sandbox.socket_directory import HOSTS

DEPLOYMENT_LABEL = "tci.deployment"
SANDBOX_LABEL = "tci.sandbox"

FORWARDER = "http://{}:{}".format(*PROXY_ADDRESS)

USER_BASE = "/tmp/.local"  # noqa: S108 (inside the sandbox)
"""Where pip installs what code asks for: not in the working directory, which is the caller's."""

CA_VARIABLES = ("CURL_CA_BUNDLE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")

ENVIRONMENT = {
    "HOME": HOME,
    "USER": "user",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUSERBASE": USER_BASE,
    "IPYTHONDIR": "/tmp/.ipython",  # noqa: S108 (inside the sandbox, where /tmp is its own)
    "MPLCONFIGDIR": "/tmp/.matplotlib",  # noqa: S108 (the same)
    "NUMBA_CACHE_DIR": "/tmp/.numba",  # noqa: S108 (the same)
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "HTTP_PROXY": FORWARDER,
    "HTTPS_PROXY": FORWARDER,
    "http_proxy": FORWARDER,
    "https_proxy": FORWARDER,
    "NO_PROXY": "localhost,127.0.0.1,::1",
    "no_proxy": "localhost,127.0.0.1,::1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_COLOR": "1",
    "PIP_NO_INPUT": "1",
    "PIP_NO_WARN_SCRIPT_LOCATION": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_RETRIES": "2",
    "PIP_ROOT_USER_ACTION": "ignore",
}
"""What every sandbox's environment holds; nothing of the service's gets in."""


def environment(spec: SandboxSpec) -> dict[str, str]:
    """Return the whole environment of a sandbox, besides the driver's own PATH and the launcher's order."""
    variables = dict(ENVIRONMENT)
    if spec.pip_index_url:
        variables["PIP_INDEX_URL"] = spec.pip_index_url
    if spec.has_ca:
        variables |= dict.fromkeys(CA_VARIABLES, f"{SOCKET_DIRECTORY}/egress/ca.pem")
    return variables


def launch_order(
    spec: SandboxSpec,
    *,
    sockets: dict[str, int] | None = None,
    limit_data: bool = False,
    limit_processes: bool = False,
) -> str:
    """Return what the launcher is told, as JSON: see `tci.kernel.launcher.start`."""
    order = {
        "key": spec.kernel_key,
        "uid": SANDBOX_UID,
        "gid": SANDBOX_UID,
        "open_files": spec.limits.open_files,
        "file_bytes": spec.limits.disk_bytes,
        "data_bytes": spec.limits.memory_bytes if limit_data else None,
        "processes": spec.limits.pids if limit_processes else None,
        "output_bytes": spec.limits.output_bytes,
        "preload": spec.preload,
        "has_gate": spec.egress_directory is not None,
        "sockets": sockets,
    }
    return json.dumps(order)


def container_name(sandbox_id: str) -> str:
    """Return the name of a sandbox's container."""
    return f"tci-{sandbox_id}"


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the operator and the service choose of how every container is confined."""

    seccomp: str
    """The profile itself, as JSON: the engine may be on another machine and reads no file of ours."""
    apparmor: str | None = None
    """Name of a profile that the host has loaded; None leaves the engine's own, where the host has AppArmor."""
    runtime: str | None = None
    """OCI runtime; None is the engine's own."""


def container_config(spec: SandboxSpec, *, image: str, confinement: Confinement) -> dict[str, Any]:
    """Return the body of `POST /containers/create` (Docker Engine API v1.41) for a sandbox."""
    limits = spec.limits
    tmpfs = f"rw,nosuid,nodev,nr_inodes={limits.inodes}"
    disk = f"{tmpfs},exec,size={limits.disk_bytes},uid={SANDBOX_UID},gid={SANDBOX_UID}"
    security = ["no-new-privileges", f"seccomp={confinement.seccomp}"]
    if confinement.apparmor:
        security.append(f"apparmor={confinement.apparmor}")
    variables = environment(spec) | {
        "PATH": f"{USER_BASE}/bin:/usr/local/bin:/usr/bin:/bin",
        "TCI_LAUNCH": launch_order(spec),
    }
    return {
        "Image": image,
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "WorkingDir": HOME,
        "Hostname": "sandbox",
        "NetworkDisabled": True,
        "Labels": {DEPLOYMENT_LABEL: spec.deployment, SANDBOX_LABEL: spec.sandbox_id},
        "HostConfig": {
            "NetworkMode": "none",
            # The kernel must not be process 1 of its namespace: there a signal to itself does nothing.
            "Init": True,
            "ReadonlyRootfs": True,
            # Only what the launcher needs to become the unprivileged user; it gives these up as well.
            "CapDrop": ["ALL"],
            "CapAdd": ["SETGID", "SETPCAP", "SETUID"],
            "SecurityOpt": security,
            "Binds": [
                f"{spec.socket_directory}:{SOCKET_DIRECTORY}:rw",
                f"{spec.socket_directory}/{HOSTS}:/etc/hosts:ro",
            ],
            "Tmpfs": {
                HOME: f"{disk},mode=0755",
                "/tmp": f"{disk},mode=1777",  # noqa: S108 (the sandbox's own)
                # In place of the engine's, whose inodes ShmSize does not bound.
                "/dev/shm": f"{tmpfs},noexec,size={limits.shm_bytes},mode=1777",  # noqa: S108 (the same)
            },
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Memory": limits.memory_bytes,
            "MemorySwap": limits.memory_bytes,
            "NanoCpus": round(limits.cpus * 1e9),
            "PidsLimit": limits.pids,
            "Ulimits": [
                {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "LogConfig": {"Type": "none"},
            "RestartPolicy": {"Name": "no"},
            **({"Runtime": confinement.runtime} if confinement.runtime else {}),
        },
    }
