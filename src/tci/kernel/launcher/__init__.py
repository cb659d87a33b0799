"""The program that becomes the kernel. It runs inside the sandbox, alone: nothing else of tci is there.

Four steps, in this order, each a function of its own:

1. `start.listen`: own the sockets on which the service reaches the kernel.
2. `privileges.drop_privileges`: give up every right for good, before a byte of the caller's code is read.
3. `start.preload`: import the usual libraries, so that the caller need not wait for them.
4. `kernel.serve`: be an ipykernel on those sockets.

Until step 2 is done only the standard library is imported: whatever runs with rights must be small.
"""

CHANNELS = ("shell", "iopub", "control")
"""The channels that the service uses. stdin is never connected, the heartbeat not needed."""

SOCKET_DIRECTORY = "/run/tci"

PROXY_ADDRESS = ("127.0.0.1", 3128)
"""Where programs in the jail find the way out (`forwarder`)."""

CACHES = {"MPLCONFIGDIR": "/opt/tci/matplotlib", "NUMBA_CACHE_DIR": "/opt/tci/numba"}
"""What was prepared with the sandbox's files (see warm.py there), by the variable that says where it is wanted."""
