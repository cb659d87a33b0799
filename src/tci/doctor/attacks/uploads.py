"""Attacks on the next upload: links and pipes planted under the names that are about to be written.

Each attack has two halves. `plant_*` runs first, then the caller uploads `UPLOADS`, then `links_of_uploads` looks.
"""

import contextlib
import os

from tci.doctor.attacks.toolkit import Attempts, Target

UPLOADS = (
    "link.txt",
    "dangling.txt",
    "hard.txt",
    "pipe.txt",
    "proc.txt",
    "host.txt",
    "directory/file.txt",
    "absolute/file.txt",
)

VICTIM = "/tmp/victim"


def plant_links(target: Target) -> None:
    """Plant links to files and directories, a hard link and a pipe."""
    os.makedirs(f"{VICTIM}-directory", exist_ok=True)
    with open(VICTIM, "w") as file:
        file.write("untouched")
    with open("hard-victim", "w") as file:
        file.write("untouched")
    host = target.host_paths[0] if target.host_paths else "/etc/passwd"
    links = (
        (os.symlink, VICTIM, "link.txt"),
        (os.symlink, f"{VICTIM}-new", "dangling.txt"),
        (os.link, "hard-victim", "hard.txt"),
        (os.symlink, "/proc/self/comm", "proc.txt"),
        (os.symlink, host, "host.txt"),
        (os.symlink, f"{VICTIM}-directory", "directory"),
        (os.symlink, "/tmp", "absolute"),
    )
    for make, source, name in links:
        with contextlib.suppress(FileExistsError):
            make(source, name)
    with contextlib.suppress(OSError):  # a filter may refuse to make one
        os.mkfifo("pipe.txt")


def links_of_uploads(target: Target, attempts: Attempts) -> None:
    """Have an upload written through a planted link, directory link, hard link or pipe."""
    del target
    for path in (VICTIM, "hard-victim"):
        with open(path) as file:
            if file.read() != "untouched":
                attempts.reach(f"{path} was written")
    for path in (f"{VICTIM}-new", f"{VICTIM}-directory/file.txt", "/tmp/file.txt"):
        if os.path.exists(path):
            attempts.reach(f"{path} was made")
    for name in ("link.txt", "dangling.txt", "hard.txt", "pipe.txt", "proc.txt", "host.txt"):
        if os.path.islink(name) or not os.path.isfile(name) or os.stat(name).st_nlink != 1:
            attempts.reach(f"{name} was not replaced")
    attempts.stop("links are replaced, never followed")
    for path in (*UPLOADS[:6], "directory", "absolute", "hard-victim", VICTIM):
        with contextlib.suppress(OSError):
            os.unlink(path)


ATTACKS = (links_of_uploads,)
