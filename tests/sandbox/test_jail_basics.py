"""What code finds in its jail: no rights, no network, nothing of the host's. Through a real session."""

import ast
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tci.sandbox.docker_spec import CA_VARIABLES, ENVIRONMENT
from tci.sandbox.driver import HOME, SANDBOX_UID
from tests.conftest import KEY, Service

Ask = Callable[[str], Any]

SET_BY_IPYKERNEL = {"PYDEVD_USE_FRAME_EVAL", "PAGER", "GIT_PAGER", "PWD", "HOSTNAME", "PATH"}
"""Besides PATH, which the driver sets: what the kernel, the shell and the engine add themselves."""

TRY = """
def attempt(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "worked"
"""


@pytest.fixture(scope="module")
def session_id(service: Service) -> str:
    """One session, shared."""
    found: str = service.run(TRY + "import ctypes, json, os, resource, socket, sys")["session_id"]
    return found


@pytest.fixture(scope="module")
def ask(service: Service, session_id: str) -> Ask:
    """Return the value of an expression inside the jail, after the statements before it."""

    def evaluate(code: str) -> Any:
        *before, last = ast.parse(code).body
        statements = "\n".join(ast.unparse(statement) for statement in before)
        return json.loads(service.stdout(f"{statements}\nprint(json.dumps({ast.unparse(last)}))", session_id))

    return evaluate


def only(driver: str, wanted: str) -> None:
    """Leave a test out on the other driver."""
    if driver != wanted:
        pytest.skip(f"a matter of {wanted}")


def test_code_runs_as_the_unprivileged_user(ask: Ask) -> None:
    assert ask("[*os.getresuid(), *os.getresgid(), *os.getgroups()]") in (
        [SANDBOX_UID] * 6,
        [SANDBOX_UID] * 7,
    )
    assert ask("os.path.expanduser('~')") == HOME
    assert ask("os.getcwd()") == HOME


def test_every_thread_has_no_capability_and_no_way_to_gain_one(ask: Ask) -> None:
    threads = ask("""
wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid", "Gid")
found = []
for task in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{task}/status") as file:
        lines = dict(line.rstrip("\\n").split(":\\t", 1) for line in file if ":\\t" in line)
    found.append({name: lines[name] for name in wanted})
found
""")
    assert len(threads) > 1, "ipykernel has threads of its own"
    for thread in threads:
        assert {thread[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert thread["NoNewPrivs"] == "1"
        assert thread["Uid"] == thread["Gid"] == "\t".join([str(SANDBOX_UID)] * 4)


def test_child_of_the_code_has_no_capability(ask: Ask) -> None:
    lines = ask("""
import subprocess
lines = subprocess.check_output(["grep", "-E", "^(Cap|NoNew)", "/proc/self/status"], text=True)
lines.split()
""")
    assert set(lines[1:-2:2]) == {"0" * 16}
    assert lines[-2:] == ["NoNewPrivs:", "1"]


def test_becoming_root_is_refused(ask: Ask) -> None:
    assert ask("attempt(lambda: os.setuid(0))") == "PermissionError"
    assert ask("attempt(lambda: os.setgroups([0]))") == "PermissionError"


def test_system_calls_are_filtered(ask: Ask) -> None:
    assert ask("open('/proc/self/status').read().split('Seccomp:\\t')[1][0]") == "2"


def test_kernel_is_not_process_1(ask: Ask) -> None:
    assert ask("os.getpid()") != 1
    assert ask("os.getppid()") == 1


def test_processes_of_the_host_are_not_seen(ask: Ask) -> None:
    assert ask("len([name for name in os.listdir('/proc') if name.isdecimal()])") <= 4


def test_process_1_is_out_of_reach(ask: Ask) -> None:
    assert ask("attempt(lambda: os.kill(1, 9))") in ("PermissionError", "worked")
    assert ask("attempt(lambda: open('/proc/1/mem', 'r+b').close())") == "PermissionError"


def test_network_is_a_loopback_and_nothing_else(ask: Ask) -> None:
    interfaces = ask("[line.split(':')[0].strip() for line in open('/proc/net/dev').readlines()[2:]]")
    assert interfaces == ["lo"]
    assert ask("len(open('/proc/net/route').readlines())") == 1, "no route leads out"


@pytest.mark.parametrize("address", ["1.1.1.1", "169.254.169.254", "10.0.0.1", "172.17.0.1", "2606:4700::1111"])
def test_outside_address_is_unreachable(ask: Ask, address: str) -> None:
    family = "AF_INET6" if ":" in address else "AF_INET"
    answer = ask(f"""
def connect():
    with socket.socket(socket.{family}) as s:
        s.settimeout(3)
        s.connect(({address!r}, 80))
attempt(connect)
""")
    assert answer == "OSError", "Network is unreachable, at once"


def test_localhost_is_known_and_no_other_name(ask: Ask) -> None:
    assert ask("socket.gethostbyname('localhost')") == "127.0.0.1"
    assert ask("attempt(lambda: socket.getaddrinfo('example.com', 80))") == "gaierror"


def test_service_is_unreachable_on_the_loopback(service: Service, ask: Ask) -> None:
    port = service.url.rsplit(":", 1)[1]
    assert ask(f"attempt(lambda: socket.create_connection(('127.0.0.1', {port}), 3))") == "ConnectionRefusedError"


def test_abstract_sockets_of_the_host_are_not_seen(ask: Ask) -> None:
    assert ask("[line for line in open('/proc/net/unix').read().splitlines() if '@' in line]") == []


def test_root_is_read_only(ask: Ask) -> None:
    assert ask("bool(os.statvfs('/').f_flag & os.ST_RDONLY)")
    assert ask("bool(os.statvfs('/usr').f_flag & os.ST_RDONLY)")
    assert ask("bool(os.statvfs('/etc').f_flag & os.ST_RDONLY)")


def test_only_directories_of_its_own_are_writable(ask: Ask) -> None:
    writable = ask("""
found = []
for directory, below, _ in os.walk("/"):
    if directory in ("/proc", "/sys"):
        below.clear()
    elif os.access(directory, os.W_OK):
        found.append(directory)
        below.clear()
found
""")
    assert set(writable) - {"/dev/mqueue"} == {HOME, "/tmp", "/dev/shm"}


def test_sysctl_and_kernel_files_are_not_writable(ask: Ask) -> None:
    files = ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/overcommit_memory")
    for file in files:
        assert ask(f"attempt(lambda: open({file!r}, 'w').close())") != "worked"


def test_socket_directory_can_be_neither_written_nor_emptied(driver: str, ask: Ask) -> None:
    if driver == "bubblewrap":
        assert ask("os.listdir('/run/tci')") == ["egress"], "here the sockets have no path in the jail"
        return
    assert ask("sorted(os.listdir('/run/tci'))") == ["control", "egress", "hosts", "iopub", "shell"]
    refused = ("PermissionError", "OSError")
    assert ask("attempt(lambda: open('/run/tci/file', 'w').close())") in refused
    assert ask("attempt(lambda: os.unlink('/run/tci/shell'))") in refused
    assert ask("attempt(lambda: os.rename('/run/tci/shell', '/run/tci/other'))") in refused
    assert ask("attempt(lambda: os.mkdir('/run/tci/directory'))") in refused
    assert ask("attempt(lambda: os.chmod('/run/tci', 0o777))") in refused
    assert ask("attempt(lambda: os.symlink('/etc/passwd', '/run/tci/link'))") in refused


def test_files_of_the_host_are_not_visible(service: Service, ask: Ask, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("of the host")
    marker.chmod(0o644)
    hidden = [str(marker), str(service.data_dir), str(service.data_dir / "tci.sqlite3"), str(Path(__file__))]
    hidden += ["/var/run/docker.sock", "/run/docker.sock", "/var/lib/docker", "/root/.ssh", "/root/.bashrc"]
    assert ask(f"[path for path in {hidden!r} if os.path.exists(path)]") == []


def test_passwords_are_not_readable(ask: Ask) -> None:
    assert ask("attempt(lambda: open('/etc/shadow').close())") in ("PermissionError", "FileNotFoundError")
    assert ask("[line.split(':')[0] for line in open('/etc/passwd') if ':/root:' in line]") in ([], ["root"])


def test_home_of_root_shows_nothing(driver: str, ask: Ask) -> None:
    if driver == "docker":
        assert ask("attempt(lambda: os.listdir('/root'))") == "PermissionError"
    else:  # Python may be installed below it, and nothing else of it is there
        assert ask("os.listdir('/root') if os.path.exists('/root') else []") in ([], [".pyenv"])


def test_no_device_of_the_host_is_there(ask: Ask) -> None:
    usual = {
        "core",
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
    }
    assert set(ask("os.listdir('/dev')")) - usual == {"tty", "urandom", "zero"}


def test_environment_holds_nothing_of_the_service(ask: Ask) -> None:
    assert set(ask("list(os.environ)")) - {*ENVIRONMENT, *CA_VARIABLES} <= SET_BY_IPYKERNEL
    text = ask("""
found = ""
for process in os.listdir("/proc"):
    try:
        with open(f"/proc/{process}/environ", errors="replace") as file:
            found += file.read()
    except OSError:
        pass
found
""")
    names = {entry.split("=")[0] for entry in text.split("\0")}
    assert KEY not in text
    assert {name for name in names if name.startswith("TCI_")} <= {"TCI_LAUNCH"}, "the launcher's order, all it gets"


def test_no_descriptor_of_the_service_is_inherited(ask: Ask) -> None:
    targets = ask("""
found = []
for number in os.listdir("/proc/self/fd"):
    try:
        found.append(os.readlink(f"/proc/self/fd/{number}"))
    except OSError:
        pass
found
""")
    known = (
        "/dev/null",
        "pipe:",
        "socket:",
        "anon_inode:",
        "/proc/",
        "/home/user",
        "/tmp",
        "/dev/shm",
        "/usr/",
    )
    assert [target for target in targets if not target.startswith(known)] == []


def test_sizes_and_limits_are_the_settings(ask: Ask) -> None:
    size = "(lambda found: found.f_blocks * found.f_frsize)(os.statvfs({!r}))"
    assert ask(size.format("/dev/shm")) == 64 * 1024**2
    assert ask(size.format("/tmp")) == 1024**3
    assert ask(size.format(HOME)) == 1024**3
    assert ask("resource.getrlimit(resource.RLIMIT_NOFILE)") == [1024, 1024]
    assert ask("resource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]
    assert ask("resource.getrlimit(resource.RLIMIT_FSIZE)") == [1024**3, 1024**3]
    assert ask("resource.getrlimit(resource.RLIMIT_MEMLOCK)") == [64 * 1024] * 2
    assert ask("resource.getrlimit(resource.RLIMIT_MSGQUEUE)") == [0, 0]


def test_number_of_files_is_bounded(driver: str, ask: Ask) -> None:
    only(driver, "docker")
    for directory in ("/dev/shm", "/tmp", HOME):
        assert ask(f"os.statvfs({directory!r}).f_files") == 100_000


def test_full_disk_is_an_error_of_the_code(service: Service, session_id: str) -> None:
    code = """
try:
    with open("/dev/shm/big", "wb") as file:
        for _ in range(65):
            file.write(bytes(1024**2))
except OSError as error:
    print(error.strerror)
finally:
    os.unlink("/dev/shm/big")
"""
    assert service.stdout(code, session_id) == "No space left on device\n"


def test_container_has_limits_of_memory_processors_and_processes(driver: str, service: Service) -> None:
    only(driver, "docker")
    host = inspect_container(service)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 2 * 1024**3
    assert host["PidsLimit"] == 256
    assert host["NanoCpus"] == 10**9
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert host["NetworkMode"] == "none"


def test_limits_are_seen_in_the_control_group(driver: str, ask: Ask) -> None:
    only(driver, "docker")
    found = ask("""
found = {}
names = {"memory": ["memory.max", "memory/memory.limit_in_bytes"], "pids": ["pids.max", "pids/pids.max"]}
for name, files in names.items():
    for file in files:
        try:
            with open(f"/sys/fs/cgroup/{file}") as opened:
                found[name] = opened.read().strip()
        except OSError:
            pass
found
""")
    assert found == {"memory": str(2 * 1024**3), "pids": "256"}


def inspect_container(service: Service) -> dict[str, Any]:
    """Return what the engine says of one of this service's containers."""
    name = f"tci-{next(iter((service.data_dir / 'run').iterdir())).name}"
    found: list[dict[str, Any]] = json.loads(subprocess.check_output(["docker", "inspect", name]))
    return found[0]
