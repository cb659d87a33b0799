"""What the soak runs: each case with the only right verdict."""

from dataclasses import dataclass, field
from typing import Any

from tests.conftest import file_of

OK, ERROR, DIED, OOM, TIMEOUT, FLOOD = "ok", "error", "kernel_died", "oom", "timeout", "output_limit"
LEFT = "left"
PATIENCE = 120.0
"""Time limit of what is not meant to meet it."""


@dataclass(frozen=True)
class Case:
    """Code, and what must come of it. `NONCE` is replaced by text that no other call knows."""

    name: str
    code: str
    verdict: str = OK
    shows: str = "NONCE"
    """Text that the outputs must hold."""
    types: tuple[str, ...] | None = ("stdout",)
    """The outputs' types, where they are sure."""
    timeout: float = PATIENCE
    files: dict[str, str] = field(default_factory=dict)
    ends_session: bool = False
    leaves_after: float | None = None
    """Seconds after which the client goes away, without an answer."""

    def request(self, nonce: str) -> dict[str, Any]:
        """Return the request's body, but for its session."""
        files = [file_of(name, content.replace("NONCE", nonce)) for name, content in self.files.items()]
        return {"code": self.code.replace("NONCE", nonce), "timeout": self.timeout, "files": files}


ORDINARY = (
    Case("print", "print('NONCE')"),
    Case("expression", "'NONCE'", types=("execute_result",)),
    Case("arithmetic", "print(sum(i * i for i in range(100_000)), 'NONCE')", shows="333328333350000 NONCE"),
    Case("numpy", "import numpy as np\nprint(np.arange(10).sum(), 'NONCE')", shows="45 NONCE"),
    Case("pandas", "import pandas as pd\npd.DataFrame({'x': ['NONCE']})", types=("execute_result",)),
    Case(
        "plot",
        "import matplotlib.pyplot as plt\nprint('NONCE')\nplt.plot([1, 2])\nplt.show()",
        types=("stdout", "display_data"),
    ),
    Case("upload", "print(open('in/data.txt').read())", files={"in/data.txt": "NONCE"}),
    Case("command", "!echo NONCE"),
    Case("exception", "print('NONCE')\n1 / 0", ERROR, types=("stdout", "error")),
    Case("syntax_error", "def f(:", ERROR, shows="SyntaxError", types=("error",)),
    Case("stderr", "import sys\nprint('NONCE', file=sys.stderr)", types=("stderr",)),
    Case("async", "import asyncio\nasync def main(): print('NONCE')\nasyncio.run(main())"),
    Case("large_output", "print('NONCE' + 'x' * 200_000)"),
    Case("broken_stdout", "import sys\nprint('NONCE')\nsys.stdout.close()"),
    Case("empty", "", shows="", types=()),
)

SPAWN = """
import subprocess
spawned = []
try:
    for _ in range(300):
        spawned.append(subprocess.Popen(['sleep', '1000']))
    print('unbounded')
except OSError:
    print('refused NONCE')
for process in spawned[3:]:  # these make room again; three are left running
    process.kill()
    x = process.wait()
"""
SWALLOW = "import time\nwhile True:\n    try: time.sleep(100)\n    except BaseException: pass"

HOSTILE = (
    Case("exit", "print('NONCE')\nexit()", DIED, types=("stdout", "error"), ends_session=True),
    Case("os_exit", "import os\nos._exit(7)", DIED, "KernelDied", ("error",), ends_session=True),
    Case(
        "exit_with_child",
        "import os, subprocess\nx = subprocess.Popen(['sleep', '1000'])\nos._exit(7)",
        DIED,
        "KernelDied",
        ("error",),
        ends_session=True,
    ),
    Case("segfault", "import ctypes\nctypes.string_at(0)", DIED, "KernelDied", ("error",), ends_session=True),
    Case("kill", "import os\nos.kill(os.getpid(), 9)", DIED, "KernelDied", ("error",), ends_session=True),
    Case(
        "oom",
        "x = bytearray(3 * 1024**3)\nfor i in range(0, len(x), 4096): x[i] = 1",
        OOM,
        "MemoryError",
        ("error",),
        ends_session=True,
    ),
    Case("timeout", "import time\ntime.sleep(1000)", TIMEOUT, "TimeoutError", ("error",), timeout=1),
    Case("swallow", SWALLOW, TIMEOUT, "TimeoutError", ("error",), timeout=1, ends_session=True),
    Case("busy", "while True: pass", TIMEOUT, "TimeoutError", ("error",), timeout=1),
    Case("flood", "print('NONCE')\nfor i in range(40_000): print(i, 'x' * 60)", FLOOD, types=None),
    Case("one_line_flood", "print('NONCE' + 'y' * 30_000_000)", FLOOD, types=None),
    Case("processes", SPAWN, shows="refused NONCE"),
    Case(
        "late_thread", "import threading, time\nthreading.Thread(target=time.sleep, args=[1]).start()\nprint('NONCE')"
    ),
    Case("fork", "import os\nif pid := os.fork():\n    x = os.waitpid(pid, 0)\n    print('NONCE')", types=None),
    Case("leave", "import time\nwhile True: time.sleep(0.1)", LEFT, leaves_after=0.4),
    Case("leave_at_once", "import time\nwhile True: time.sleep(0.1)", LEFT, leaves_after=0.002),
)
