"""The steps from the first process to a kernel."""

import contextlib
import importlib
import json
import os
import shutil
import site
import socket
import sys
import warnings

from . import CACHES, CHANNELS, SOCKET_DIRECTORY
from .forwarder import start_forwarder
from .privileges import drop_privileges, limit_process


def main() -> None:
    """Become the kernel that the driver asked for in the variable TCI_LAUNCH (JSON)."""
    order = json.loads(os.environ.pop("TCI_LAUNCH"))
    listeners = listen(order.get("sockets"))
    limit_process(
        open_files=order["open_files"],
        file_bytes=order["file_bytes"],
        data_bytes=order["data_bytes"],
        processes=order["processes"],
    )
    drop_privileges(order["uid"], order["gid"])
    start_forwarder(has_gate=order["has_gate"])
    show_user_packages()
    preload(order["preload"])
    # Only now: with it come ipykernel and all that it needs.
    kernel = importlib.import_module(f"{__package__}.kernel")
    sys.path.pop(0)  # nothing of ours is imported from here on, and code need not see where it is
    kernel.serve(listeners, key=order["key"].encode(), output_bytes=order["output_bytes"])


def listen(inherited: dict[str, int] | None) -> dict[str, int]:
    """Return a listening descriptor for each channel: the driver's own, or made here.

    Made here, they are root's in a directory that the session's user can't write, so code can neither
    replace a socket nor fill the host's disk through the mount.
    """
    if inherited is not None:
        for descriptor in inherited.values():
            os.set_inheritable(descriptor, False)  # programs that code starts have no use for them
        return inherited
    descriptors = {}
    os.umask(0)
    for channel in CHANNELS:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"{SOCKET_DIRECTORY}/{channel}")
        listener.listen(64)
        descriptors[channel] = listener.detach()
    os.umask(0o022)
    return descriptors


def show_user_packages() -> None:
    """Have Python look where pip installs what code asks for; at its own start it leaves out what is not there yet."""
    directory = site.getusersitepackages()
    with contextlib.suppress(OSError):
        os.makedirs(directory, exist_ok=True)
    installed = [index for index, path in enumerate(sys.path) if path.endswith(("site-packages", "dist-packages"))]
    sys.path.insert(installed[0] if installed else len(sys.path), directory)


def preload(modules: list[str]) -> None:
    """Import modules for the caller; one that is not there is left out."""
    # Both libraries must be able to write where their caches are, so those are shown in a writable place.
    for variable, prepared in CACHES.items():
        if os.path.isdir(prepared) and not os.path.exists(os.environ[variable]):
            shutil.copytree(prepared, os.environ[variable], copy_function=os.symlink)
    # tqdm's word about a missing widget library is nothing that a caller did.
    warnings.filterwarnings("ignore", message="IProgress not found")
    # IPython's advice after sys.exit() is for people at a terminal.
    warnings.filterwarnings("ignore", message="To exit: use")
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
