"""Reads what sandbox a body of `POST /containers/create` orders, and believes none of the rest.

From the body come only ids, the key, the modules to preload and sizes up to the operator's own. Of these
`container_config` makes what the driver would have sent; a body that says anything else is refused.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from tci import resources
from tci.door.request import DEPLOYMENT, Refused
from tci.sandbox.docker_image import image_tag
from tci.sandbox.docker_spec import DEPLOYMENT_LABEL, Confinement, container_config
from tci.sandbox.driver import Limits, SandboxSpec
from tci.sandbox.spec import operator_limits
from tci.settings import Settings

KERNEL_KEY = re.compile(r"[0-9a-f]{64}")

MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")

SIZES = re.compile(r".*,nr_inodes=(\d{1,12}),.*,size=(\d{1,18}),.*")


def ordered_config(body: bytes, *, sandbox_id: str, settings: Settings) -> dict[str, Any]:
    """Return the container that is ordered, in our own words. Raises Refused where they are not the body's."""
    try:
        order = json.loads(body)
        spec = _spec(order, sandbox_id, settings)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused("The container's description is none that the driver writes.") from None
    config = container_config(spec, image=image_tag(), confinement=confinement(settings))
    if order != config:
        raise Refused(
            f"The container is not a sandbox as this door's settings have it: {_first_difference(order, config)}."
        )
    return config


def confinement(settings: Settings) -> Confinement:
    """Return how the operator has containers confined."""
    return Confinement(
        seccomp=resources.seccomp_profile(), apparmor=settings.docker_apparmor, runtime=settings.docker_runtime
    )


def _spec(order: Mapping[str, Any], sandbox_id: str, settings: Settings) -> SandboxSpec:
    variables = dict(variable.split("=", 1) for variable in order["Env"])
    launch = json.loads(variables["TCI_LAUNCH"])
    directory = settings.run_dir / sandbox_id
    return SandboxSpec(
        sandbox_id=sandbox_id,
        deployment=_fitting(DEPLOYMENT, order["Labels"][DEPLOYMENT_LABEL]),
        socket_directory=directory,
        kernel_key=_fitting(KERNEL_KEY, launch["key"]),
        limits=_limits(order["HostConfig"], launch, operator_limits(settings)),
        preload=tuple(_fitting(MODULE, module) for module in launch["preload"]),
        egress_directory=directory / "egress" if launch["has_gate"] is True else None,
        has_ca="SSL_CERT_FILE" in variables,
        pip_index_url=settings.pip_index_url if "PIP_INDEX_URL" in variables else None,
    )


def _limits(host: Mapping[str, Any], launch: Mapping[str, Any], most: Limits) -> Limits:
    found = SIZES.fullmatch(host["Tmpfs"]["/dev/shm"])  # noqa: S108 (the sandbox's own)
    if found is None:
        raise Refused("The sandbox's /dev/shm has no size.")
    return Limits(
        memory_bytes=_at_most(most.memory_bytes, host["Memory"], "memory"),
        cpus=_at_most(round(most.cpus * 1e9), host["NanoCpus"], "processors") / 1e9,
        pids=_at_most(most.pids, host["PidsLimit"], "processes"),
        disk_bytes=_at_most(most.disk_bytes, launch["file_bytes"], "disk"),
        inodes=_at_most(most.inodes, int(found[1]), "files"),
        shm_bytes=_at_most(most.shm_bytes, int(found[2]), "shared memory"),
        open_files=_at_most(most.open_files, launch["open_files"], "open files"),
        output_bytes=_at_most(most.output_bytes, launch["output_bytes"], "output"),
    )


def _at_most(most: int, asked: object, what: str) -> int:
    """Return what is asked for, a positive number: the engine takes zero and less for no limit at all."""
    if type(asked) is not int or not 0 < asked <= most:
        raise Refused(f"A sandbox may have no more {what} than the operator's {most}.")
    return asked


def _fitting(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise Refused("An id, key or module of the sandbox is none that the driver makes.")
    return text


def _first_difference(order: Any, config: Any, place: str = "") -> str:
    """Return where the two part, never what stands there: the environment holds the kernel's key."""
    if isinstance(order, dict) and isinstance(config, dict):
        for name in sorted({*order, *config}, key=str):
            if order.get(name) != config.get(name) or (name in order) != (name in config):
                return _first_difference(order.get(name), config.get(name), f"{place}.{str(name)[:40]}".lstrip("."))
    return place or "the whole"
