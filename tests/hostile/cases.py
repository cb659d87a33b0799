"""Hostile code that does not stop by itself: floods, and whatever stays when its session ends."""

FLOODS = {
    "fork": """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    "thread": """
while True:
    try:
        threading.Thread(target=time.sleep, args=(1000,)).start()
    except RuntimeError:
        pass
""",
    "descriptor": """
kept = []
while True:
    try:
        kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        with contextlib.suppress(OSError):
            os.fork()
""",
    "zombie": """
while True:
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        pass
""",
    "inode": """
for index in itertools.count():
    for directory in (".", "/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            open(f"{directory}/{index}", "w").close()
""",
    "disk": """
while True:
    for directory in (".", "/tmp", "/dev/shm"):
        with contextlib.suppress(OSError), open(f"{directory}/flood", "ab") as file:
            file.write(bytes(1 << 20))
""",
    "log": """
places = [1, 2]
for path in ("/proc/1/fd/1", "/proc/1/fd/2", "/dev/stdout", "/dev/stderr", "/dev/console", "/dev/tty", "/dev/kmsg"):
    with contextlib.suppress(OSError):
        places.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
while True:
    for place in places:
        with contextlib.suppress(OSError):
            os.write(place, b"flood " * 10_000)
""",
    "memory": """
kept = []
while True:
    kept.append(b"x" * (1 << 24))
""",
    "child memory": """
while True:
    if os.fork() == 0:
        kept = []
        while True:
            kept.append(b"x" * (1 << 24))
    os.wait()
""",
    "socket": """
kept = []
while True:
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            pair = socket.socketpair() if family == socket.AF_UNIX else [socket.socket(family)]
            kept.append(pair)
            pair[0].setblocking(False)
            pair[0].send(bytes(1 << 16))
""",
    "upload directory": """
for index in itertools.count():
    with contextlib.suppress(OSError):
        os.makedirs(f"{index % 100}/" * 50 + str(index))
""",
}

IMPORTS = "import contextlib, itertools, os, socket, threading, time\n"

STAYING = """
import os, signal, socket, subprocess, sys, threading
sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
subprocess.Popen(sleep, start_new_session=True)
subprocess.Popen(["/bin/bash", "-c", "trap '' TERM HUP INT QUIT; while true; do sleep 1; done"], start_new_session=True)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            os.execv(sys.executable, sleep)
        os._exit(0)
kept = socket.socket(socket.AF_UNIX)
kept.bind("/tmp/kept")
descriptor = os.open("/dev/shm/kept", os.O_CREAT | os.O_RDWR)
os.unlink("/dev/shm/kept")
os.write(descriptor, b"kept")
"""
"""Every usual way to leave something running, and things that only an open descriptor holds."""

DEATHS = {
    "exit": "import os; os._exit(1)",
    "kill": "import os; os.kill(os.getpid(), 9)",
    "kill all": "import os; os.kill(-1, 9)",
    "stop": "import os; os.kill(os.getpid(), 19)",
    "crash": "import ctypes; ctypes.string_at(0)",
}
"""Ways to end a session's kernel in the middle of a run."""
