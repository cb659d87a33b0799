"""What the door refuses: each request is answered 403, and the engine has made, started or ended nothing."""

import copy
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tci import resources
from tci.door.order import confinement
from tci.ids import new_sandbox_id, random_text
from tci.sandbox.docker_image import image_tag
from tci.sandbox.docker_spec import DEPLOYMENT_LABEL, SANDBOX_LABEL, container_config
from tci.sandbox.driver import SandboxSpec
from tci.sandbox.socket_directory import make_socket_directory, remove_socket_directory
from tci.sandbox.spec import new_spec, operator_limits
from tci.settings import Settings
from tests.door.conftest import Door, Engine, open_engine

CREATE = "/v1.41/containers/create?name=tci-{id}"

Config = dict[str, Any]


def host(**changes: Any) -> Callable[[Config], None]:
    """Return a change of HostConfig."""
    return lambda config: config["HostConfig"].update(changes)


def top(**changes: Any) -> Callable[[Config], None]:
    """Return a change of the rest."""
    return lambda config: config.update(changes)


def bind(*binds: str) -> Callable[[Config], None]:
    """Return a change that mounts something more; `{dir}` is the sandbox's directory."""

    def change(config: Config) -> None:
        directory = config["HostConfig"]["Binds"][0].split(":")[0]
        config["HostConfig"]["Binds"] += [text.replace("{dir}", directory) for text in binds]

    return change


def first_bind(text: str) -> Callable[[Config], None]:
    """Return a change that mounts something else as the sandbox's directory."""

    def change(config: Config) -> None:
        directory = config["HostConfig"]["Binds"][0].split(":")[0]
        config["HostConfig"]["Binds"][0] = text.replace("{dir}", directory)

    return change


def variable(text: str) -> Callable[[Config], None]:
    """Return a change that adds a variable."""
    return lambda config: config["Env"].append(text)


def launch(**changes: Any) -> Callable[[Config], None]:
    """Return a change of what the launcher is told."""

    def change(config: Config) -> None:
        [index] = [index for index, text in enumerate(config["Env"]) if text.startswith("TCI_LAUNCH=")]
        order = json.loads(config["Env"][index].removeprefix("TCI_LAUNCH="))
        config["Env"][index] = f"TCI_LAUNCH={json.dumps(order | changes)}"

    return change


def labels(**changes: str) -> Callable[[Config], None]:
    """Return a change of the labels."""
    return lambda config: config["Labels"].update({f"tci.{name}": value for name, value in changes.items()})


def tmpfs(place: str, options: str) -> Callable[[Config], None]:
    """Return a change of a file system in memory."""
    return lambda config: config["HostConfig"]["Tmpfs"].update({place: options})


BODIES: dict[str, Callable[[Config], None]] = {
    "privileged": host(Privileged=True),
    "privileged in other letters": host(privileged=True),
    "host_config in other letters": lambda config: config.update(hostconfig={"Privileged": True}),
    "bind of the host": bind("/:/host"),
    "bind of the engine's socket": bind("/var/run/docker.sock:/var/run/docker.sock"),
    "bind of the whole run directory": first_bind("{dir}/..:/run/tci:rw"),
    "bind of another sandbox": first_bind("{dir}x:/run/tci:rw"),
    "bind of the host in place of the sockets": first_bind("/:/run/tci:rw"),
    "bind by way of dots": first_bind("{dir}/../../../..:/run/tci:rw"),
    "bind that propagates": first_bind("{dir}:/run/tci:rw,rshared"),
    "binds as one text": host(Binds="/:/host"),
    "mount": host(Mounts=[{"Type": "bind", "Source": "/", "Target": "/host"}]),
    "volume": top(Volumes={"/data": {}}),
    "volumes of another": host(VolumesFrom=["another"]),
    "volume driver": host(VolumeDriver="local"),
    "host's network": host(NetworkMode="host"),
    "bridge": host(NetworkMode="bridge"),
    "network of another": host(NetworkMode="container:another"),
    "network enabled": top(NetworkDisabled=False),
    "endpoint": top(NetworkingConfig={"EndpointsConfig": {"bridge": {}}}),
    "port": host(PortBindings={"80/tcp": [{"HostPort": "80"}]}),
    "host's processes": host(PidMode="host"),
    "host's ipc": host(IpcMode="host"),
    "host's names": host(UTSMode="host"),
    "host's users": host(UsernsMode="host"),
    "host's control groups": host(CgroupnsMode="host"),
    "cgroup parent": host(CgroupParent="/"),
    "capability": host(CapAdd=["SYS_ADMIN"]),
    "one capability more": lambda config: config["HostConfig"]["CapAdd"].append("SYS_PTRACE"),
    "capabilities kept": host(CapDrop=[]),
    "no capability dropped": lambda config: config["HostConfig"].pop("CapDrop"),
    "seccomp off": host(SecurityOpt=["no-new-privileges", "seccomp=unconfined"]),
    "seccomp of another kind": host(SecurityOpt=["no-new-privileges", 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']),
    "no seccomp": host(SecurityOpt=["no-new-privileges"]),
    "new privileges": host(SecurityOpt=[f"seccomp={resources.seccomp_profile()}"]),
    "apparmor off": lambda config: config["HostConfig"]["SecurityOpt"].append("apparmor=unconfined"),
    "label off": lambda config: config["HostConfig"]["SecurityOpt"].append("label=disable"),
    "nothing masked": host(MaskedPaths=[]),
    "nothing read-only": host(ReadonlyPaths=[]),
    "writable root": host(ReadonlyRootfs=False),
    "device": host(Devices=[{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda", "CgroupPermissions": "rwm"}]),
    "device rule": host(DeviceCgroupRules=["a *:* rwm"]),
    "device request": host(DeviceRequests=[{"Count": -1, "Capabilities": [["gpu"]]}]),
    "group": host(GroupAdd=["docker"]),
    "sysctl": host(Sysctls={"kernel.core_pattern": "|/bin/sh"}),
    "runtime": host(Runtime="another"),
    "without init": host(Init=False),
    "restart": host(RestartPolicy={"Name": "always"}),
    "logs": host(LogConfig={"Type": "syslog", "Config": {"syslog-address": "tcp://192.0.2.1:1"}}),
    "link": host(Links=["another:another"]),
    "host name": host(ExtraHosts=["pypi.org:192.0.2.1"]),
    "oom score": host(OomScoreAdj=-1000),
    "no oom kill": host(OomKillDisable=True),
    "unbounded memory": host(Memory=0, MemorySwap=0),
    "negative memory": host(Memory=-1, MemorySwap=-1),
    "more memory": host(Memory=1 << 40, MemorySwap=1 << 40),
    "swap": host(MemorySwap=-1),
    "memory as text": host(Memory="1073741824"),
    "more processors": host(NanoCpus=10**12),
    "unbounded processors": host(NanoCpus=0),
    "unbounded processes": host(PidsLimit=-1),
    "more processes": host(PidsLimit=10**6),
    "more open files": host(Ulimits=[{"Name": "nofile", "Soft": 10**6, "Hard": 10**6}]),
    "realtime": host(CpuRealtimeRuntime=950000),
    "more shm": tmpfs("/dev/shm", "rw,nosuid,nodev,nr_inodes=1000,noexec,size=999999999999,mode=1777"),
    "unbounded shm": tmpfs("/dev/shm", "rw"),
    "one tmpfs more": tmpfs("/etc", "rw"),
    "suid on tmpfs": tmpfs("/tmp", "rw,exec,suid"),
    "another image": top(Image="debian:trixie-slim"),
    "another sandbox image": top(Image="tci-sandbox:000000000000"),
    "entry point": top(Entrypoint=["/bin/sh"]),
    "command": top(Cmd=["sh"]),
    "user": top(User="0:0"),
    "working directory": top(WorkingDir="/"),
    "terminal": top(Tty=True),
    "open input": top(OpenStdin=True),
    "health check": top(Healthcheck={"Test": ["CMD", "true"]}),
    "on build": top(OnBuild=["RUN true"]),
    "variable": variable("LD_PRELOAD=/run/tci/x.so"),
    "variable twice": variable("PYTHONUSERBASE=/run/tci"),
    "index": variable("PIP_INDEX_URL=https://index.example/simple"),
    "no variable at all": top(Env=[]),
    "root's code": launch(uid=0, gid=0),
    "module that is none": launch(preload=["os; import x"]),
    "inherited sockets": launch(sockets={"shell": 3}),
    "key that is none": launch(key="short"),
    "key that is a number": launch(key=7),
    "gate that is none": launch(has_gate="yes"),
    "more files": launch(open_files=10**6),
    "larger files": launch(file_bytes=10**15),
    "larger output": launch(output_bytes=10**12),
    "another's label": labels(sandbox="sbx_1111111111111111"),
    "one label more": labels(more="x"),
    "deployment that is none": labels(deployment="a b"),
}
"""Each changes a container that is let through, in one thing."""

NOT_CONTAINERS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "list": b"[]",
    "number": b"7",
    "null": b"null",
    "empty": b"{}",
    "deep": b"[" * 100_000,
    "long": b'{"Image": "' + b"x" * 300_000 + b'"}',
    "no text": b"\xff\xfe",
}

REQUESTS = [
    "POST /v1.41/containers/{id}/exec",
    "POST /v1.41/containers/tci-{id}/exec",
    "POST /v1.41/exec/x/start",
    "POST /v1.41/commit?container=tci-{id}",
    "POST /v1.41/build",
    "POST /v1.41/session",
    "POST /v1.41/images/create?fromImage=debian",
    "POST /v1.41/images/load",
    "POST /v1.41/images/{image}/push",
    "POST /v1.41/images/{image}/tag?repo=tci-sandbox&tag=x",
    "DELETE /v1.41/images/{image}",
    "GET /v1.41/images/{image}/history",
    "GET /v1.41/images/{image}/get",
    "GET /v1.41/images/debian:trixie-slim/json",
    "GET /v1.41/images/{image}x/json",
    "GET /v1.41/images/json",
    "POST /v1.41/images/{image}/json",
    "GET /v1.41/images/{image}/json?x=1",
    "POST /v1.41/images/prune",
    "POST /v1.41/containers/prune",
    "GET /v1.41/volumes",
    "POST /v1.41/volumes/create",
    "GET /v1.41/networks",
    "POST /v1.41/networks/create",
    "POST /v1.41/networks/bridge/connect",
    "POST /v1.41/swarm/init",
    "GET /v1.41/secrets",
    "GET /v1.41/configs",
    "POST /v1.41/plugins/pull?remote=x",
    "GET /v1.41/events",
    "GET /v1.41/system/df",
    "GET /v1.41/distribution/x/json",
    "POST /v1.41/auth",
    "POST /v1.41/_ping",
    "HEAD /_ping",
    "GET /v1.41/version?x=1",
    # Other things to do with a sandbox of our own.
    "POST /v1.41/containers/tci-{own}/attach?stream=1",
    "GET /v1.41/containers/tci-{own}/attach/ws",
    "GET /v1.41/containers/tci-{own}/logs?stdout=1",
    "GET /v1.41/containers/tci-{own}/archive?path=/",
    "PUT /v1.41/containers/tci-{own}/archive?path=/",
    "GET /v1.41/containers/tci-{own}/export",
    "GET /v1.41/containers/tci-{own}/top",
    "GET /v1.41/containers/tci-{own}/changes",
    "GET /v1.41/containers/tci-{own}/stats",
    "GET /v1.41/containers/tci-{own}/stats?stream=1&one-shot=1",
    "GET /v1.41/containers/tci-{own}/json?size=1",
    "POST /v1.41/containers/tci-{own}/update",
    "POST /v1.41/containers/tci-{own}/rename?name=x",
    "POST /v1.41/containers/tci-{own}/kill",
    "POST /v1.41/containers/tci-{own}/stop",
    "POST /v1.41/containers/tci-{own}/restart",
    "POST /v1.41/containers/tci-{own}/pause",
    "POST /v1.41/containers/tci-{own}/wait",
    "POST /v1.41/containers/tci-{own}/start?detachKeys=x",
    "DELETE /v1.41/containers/tci-{own}",
    "DELETE /v1.41/containers/tci-{own}?force=1&v=1&link=1",
    "DELETE /v1.41/containers/tci-{own}?force=1&v=1&v=1",
    "DELETE /v1.41/containers/tci-{own}?v=1",
    # Containers of others, by name and by id; and our own by its id, which could be anybody's.
    "GET /v1.41/containers/tci-{theirs}/json",
    "POST /v1.41/containers/tci-{theirs}/start",
    "GET /v1.41/containers/tci-{theirs}/stats?stream=0&one-shot=1",
    "DELETE /v1.41/containers/tci-{theirs}?force=1&v=1",
    "GET /v1.41/containers/tci-{labelled}/json",
    "POST /v1.41/containers/tci-{labelled}/start",
    "DELETE /v1.41/containers/tci-{labelled}?force=1&v=1",
    "GET /v1.41/containers/{theirs_id}/json",
    "DELETE /v1.41/containers/{theirs_id}?force=1&v=1",
    "GET /v1.41/containers/{own_id}/json",
    "DELETE /v1.41/containers/{own_id}?force=1&v=1",
    # Lists of more than this deployment's.
    "GET /v1.41/containers/json",
    "GET /v1.41/containers/json?all=1",
    "GET /v1.41/containers/json?all=1&filters={{}}",
    'GET /v1.41/containers/json?all=1&filters={{"label":[]}}',
    'GET /v1.41/containers/json?all=1&filters={{"label":["tci.sandbox"]}}',
    'GET /v1.41/containers/json?all=1&filters={{"label":["tci.deployment"]}}',
    'GET /v1.41/containers/json?all=1&filters={{"label":["tci.deployment="]}}',
    'GET /v1.41/containers/json?all=1&filters={{"name":["x"]}}',
    'GET /v1.41/containers/json?all=1&filters={{"label":["tci.deployment=x"],"name":["x"]}}',
    'GET /v1.41/containers/json?all=1&size=1&filters={{"label":["tci.deployment=x"]}}',
    'GET /v1.41/containers/json?all=1&filters={{}}&filters={{"label":["tci.deployment=x"]}}',
    "GET /v1.41/containers/json?all=1&filters=[[[",
    # The same things in other words.
    "GET //v1.41/containers/tci-{own}/json",
    "GET /v1.41//containers/tci-{own}/json",
    "GET /v1.41/./containers/tci-{own}/json",
    "GET /v1.41/containers/x/../tci-{own}/json",
    "GET /v1.41/containers/tci-{own}/json/",
    "GET /v1.41/containers/tci-{own}/json#x",
    "GET /v1.41/containers/tci-{own}/../{theirs_id}/json",
    "GET /v1.41/containers/tci-{own}%2f..%2f{theirs_id}/json",
    "GET /v1.41/%63ontainers/tci-{own}/json",
    "GET /v1.41/containers/%2e%2e/images/json",
    "GET /v1.41/containers/tci-{own}%00/json",
    "GET /V1.41/containers/tci-{own}/json",
    "GET /v1.41/Containers/tci-{own}/json",
    "get /v1.41/containers/tci-{own}/json",
    "GET /v1.12/containers/tci-{own}/json",
    "GET /v2/containers/tci-{own}/json",
    "GET /containers/tci-{own}/json",
    "GET v1.41/containers/tci-{own}/json",
    "GET http://localhost/v1.41/containers/tci-{own}/json",
    "GET /v1.41/containers/tci-{own};x/json",
    "GET /v1.41/containers/tci-{own}\\json",
    "CONNECT localhost:80",
    "OPTIONS *",
    "PRI *",
]
"""Method and target. `own` is a sandbox of the door's, `theirs` a container of its kind of name, `labelled` one with
labels like ours whose sockets are elsewhere."""


@pytest.fixture
def spec(settings: Settings) -> SandboxSpec:
    """A sandbox as the driver would launch it, its directory made."""
    found = new_spec(settings, sandbox_id=new_sandbox_id(), deployment="refusals", egress_directory=None, has_ca=False)
    make_socket_directory(found.socket_directory)
    return found


def config_of(spec: SandboxSpec, settings: Settings) -> Config:
    return container_config(spec, image=image_tag(), confinement=confinement(settings))


async def is_there(engine: Engine, name: str) -> bool:
    return (await engine.ask("GET", f"containers/{name}/json"))[0] == 200


async def test_container_of_the_driver_is_let_through(
    door: Door, engine: Engine, spec: SandboxSpec, settings: Settings
) -> None:
    """The other tests change this one."""
    body = json.dumps(config_of(spec, settings)).encode()
    assert door.ask("POST", CREATE.format(id=spec.sandbox_id), body)[0] == 201
    assert await is_there(engine, f"tci-{spec.sandbox_id}")
    assert door.ask("DELETE", f"/v1.41/containers/tci-{spec.sandbox_id}?force=1&v=1")[0] == 204
    assert not spec.socket_directory.exists()


async def test_smaller_sandbox_is_let_through_as_it_is_asked_for(
    door: Door, engine: Engine, spec: SandboxSpec, settings: Settings
) -> None:
    small = replace(operator_limits(settings), memory_bytes=2**28, cpus=0.29, pids=40, disk_bytes=2**20, inodes=1001)
    body = json.dumps(config_of(replace(spec, limits=small), settings)).encode()
    assert door.ask("POST", CREATE.format(id=spec.sandbox_id), body)[0] == 201
    _, made = await engine.ask("GET", f"containers/tci-{spec.sandbox_id}/json")
    kept = made["HostConfig"]
    assert (kept["Memory"], kept["NanoCpus"], kept["PidsLimit"]) == (2**28, 290_000_000, 40)
    assert kept["Privileged"] is False
    assert door.ask("DELETE", f"/v1.41/containers/tci-{spec.sandbox_id}?force=1&v=1")[0] == 204


@pytest.mark.parametrize("case", BODIES)
async def test_container_that_differs_in_one_thing_is_refused(
    door: Door, engine: Engine, spec: SandboxSpec, settings: Settings, case: str
) -> None:
    config = copy.deepcopy(config_of(spec, settings))
    BODIES[case](config)
    assert config != config_of(spec, settings), "nothing is changed"
    status, told = door.ask("POST", CREATE.format(id=spec.sandbox_id), json.dumps(config).encode())
    assert (status, await is_there(engine, f"tci-{spec.sandbox_id}")) == (403, False), told
    assert spec.kernel_key not in told
    remove_socket_directory(spec.socket_directory)


@pytest.mark.parametrize("case", NOT_CONTAINERS)
async def test_body_that_is_no_container_is_refused(door: Door, engine: Engine, spec: SandboxSpec, case: str) -> None:
    status, told = door.ask("POST", CREATE.format(id=spec.sandbox_id), NOT_CONTAINERS[case])
    assert (status, await is_there(engine, f"tci-{spec.sandbox_id}")) == (403, False), told
    remove_socket_directory(spec.socket_directory)


async def test_field_twice_is_made_as_we_understand_it(
    door: Door, engine: Engine, spec: SandboxSpec, settings: Settings
) -> None:
    """Two parsers may read such a body differently; the engine never sees it."""
    text = json.dumps(config_of(spec, settings))
    body = text.replace('"HostConfig": {', '"HostConfig": {"Privileged": true}, "HostConfig": {', 1).encode()
    assert body != text.encode()
    assert door.ask("POST", CREATE.format(id=spec.sandbox_id), body)[0] == 201
    _, made = await engine.ask("GET", f"containers/tci-{spec.sandbox_id}/json")
    assert made["HostConfig"]["Privileged"] is False
    assert door.ask("DELETE", f"/v1.41/containers/tci-{spec.sandbox_id}?force=1&v=1")[0] == 204


@pytest.mark.parametrize(
    "query",
    [
        *("", "?name=", "?name={id}", "?name=another", "?name=/tci-{id}", "?name=tci-{id}&name=x", "?x"),
        *("?name=tci-{id}&platform=x", "?Name=tci-{id}", "?name=tci-{id}%0a", "?name=tci-{id}&", "?name=tci-{id}x"),
    ],
)
async def test_container_of_another_name_is_refused(
    door: Door, engine: Engine, spec: SandboxSpec, settings: Settings, query: str
) -> None:
    body = json.dumps(config_of(spec, settings)).encode()
    status, told = door.ask("POST", f"/v1.41/containers/create{query.format(id=spec.sandbox_id)}", body)
    found = await engine.ask("GET", f"containers/json?all=1&filters={label(SANDBOX_LABEL, spec.sandbox_id)}")
    assert (status, found) == (403, (200, [])), told
    remove_socket_directory(spec.socket_directory)


def label(name: str, value: str) -> str:
    return quote(json.dumps({"label": [f"{name}={value}"]}))


@pytest.fixture(scope="module")
async def containers(door: Door, settings: Settings) -> AsyncIterator[dict[str, str]]:
    """A sandbox of the door's, and two containers of others that look like one; none is started."""
    ids = {name: new_sandbox_id() for name in ("own", "theirs", "labelled")}
    async with open_engine() as engine:
        own = new_spec(settings, sandbox_id=ids["own"], deployment="refusals", egress_directory=None, has_ca=False)
        make_socket_directory(own.socket_directory)
        body = json.dumps(config_of(own, settings)).encode()
        assert door.ask("POST", CREATE.format(id=ids["own"]), body)[0] == 201
        theirs: Config = {"Image": image_tag(), "NetworkDisabled": True}
        assert (await engine.ask("POST", f"containers/create?name=tci-{ids['theirs']}", theirs))[0] == 201
        marks = {"Labels": {DEPLOYMENT_LABEL: "refusals", SANDBOX_LABEL: ids["labelled"]}}
        made = await engine.ask("POST", f"containers/create?name=tci-{ids['labelled']}", theirs | marks)
        assert made[0] == 201
        for name in ("own", "theirs"):
            ids[f"{name}_id"] = (await engine.ask("GET", f"containers/tci-{ids[name]}/json"))[1]["Id"]
        try:
            yield ids
        finally:
            assert door.ask("DELETE", f"/v1.41/containers/tci-{ids['own']}?force=1&v=1")[0] == 204
            for name in ("theirs", "labelled"):
                assert (await engine.ask("DELETE", f"containers/tci-{ids[name]}?force=1"))[0] == 204


@pytest.mark.parametrize("request_line", REQUESTS)
async def test_other_request_is_refused(
    door: Door, engine: Engine, containers: dict[str, str], request_line: str
) -> None:
    before = await state(engine, containers)
    line = request_line.format(id=new_sandbox_id(), image=image_tag(), **containers)
    method, target = line.split(" ", 1)
    # As raw bytes: no client's library tidies it up. 400 is the HTTP parser's own word for what is no request.
    status = door.ask_raw(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    assert status == 403 or (status == 400 and is_malformed(method, target)), line
    assert await state(engine, containers) == before


def is_malformed(method: str, target: str) -> bool:
    return not target.startswith(("/", "*", "http://")) or method in {"get", "PRI"} or "#" in target


async def state(engine: Engine, containers: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return whatever of the three could have changed."""
    found = []
    for name in ("own", "theirs", "labelled"):
        _, told = await engine.ask("GET", f"containers/tci-{containers[name]}/json")
        found.append((told["Id"], told["Name"], told["State"]["Status"]))
    return found


async def test_own_sandbox_is_seen_and_others_are_not_listed(door: Door, containers: dict[str, str]) -> None:
    """The control of the above: what is refused there is refused for what it asks, not for whom."""
    status, told = door.ask("GET", f"/v1.41/containers/tci-{containers['own']}/json")
    assert (status, json.loads(told)["Id"]) == (200, containers["own_id"])
    status, told = door.ask("GET", f"/v1.41/containers/json?all=1&filters={label(DEPLOYMENT_LABEL, 'refusals')}")
    assert (status, [found["Id"] for found in json.loads(told)]) == (200, [containers["own_id"]])


SMUGGLED = {
    "two lengths": "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "length and chunks": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks": "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks in disguise": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "another protocol": "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
    "a body where none is": "Content-Length: 2\r\n\r\n{}",
    "a header on two lines": "X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("case", SMUGGLED)
@pytest.mark.parametrize("line", ["GET /v1.41/containers/tci-{own}/json", "POST /v1.41/containers/tci-{own}/start"])
async def test_request_with_an_odd_body_is_refused(
    door: Door, engine: Engine, containers: dict[str, str], line: str, case: str
) -> None:
    before = await state(engine, containers)
    request = f"{line.format(**containers)} HTTP/1.1\r\nHost: x\r\n{SMUGGLED[case]}"
    assert door.ask_raw(request.encode()) in {400, 403}
    assert await state(engine, containers) == before


async def test_chunked_container_is_refused(door: Door, engine: Engine, spec: SandboxSpec, settings: Settings) -> None:
    body = json.dumps(config_of(spec, settings)).encode()
    target = CREATE.format(id=spec.sandbox_id)
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
    assert door.ask_raw(head + body + b"\r\n0\r\n\r\n") == 403
    assert not await is_there(engine, f"tci-{spec.sandbox_id}")
    remove_socket_directory(spec.socket_directory)


async def test_engine_is_told_without_its_secrets(door: Door) -> None:
    status, told = door.ask("GET", "/v1.41/info")
    assert status == 200
    assert "LiveRestoreEnabled" in json.loads(told)
    assert json.loads(told).keys().isdisjoint({"HttpProxy", "HttpsProxy", "RegistryConfig", "Labels", "Swarm", "ID"})


async def test_sandbox_without_a_directory_is_refused(
    door: Door, engine: Engine, spec: SandboxSpec, settings: Settings
) -> None:
    remove_socket_directory(spec.socket_directory)
    await refused_for_its_directory(door, engine, spec, settings)


async def test_sandbox_whose_directory_is_a_link_is_refused(
    door: Door, engine: Engine, spec: SandboxSpec, settings: Settings
) -> None:
    """The engine would follow it, to the host's root."""
    remove_socket_directory(spec.socket_directory)
    spec.socket_directory.symlink_to("/")
    await refused_for_its_directory(door, engine, spec, settings)
    spec.socket_directory.unlink()


async def refused_for_its_directory(door: Door, engine: Engine, spec: SandboxSpec, settings: Settings) -> None:
    body = json.dumps(config_of(spec, settings)).encode()
    status, told = door.ask("POST", CREATE.format(id=spec.sandbox_id), body)
    assert (status, await is_there(engine, f"tci-{spec.sandbox_id}")) == (403, False), told
    assert "directory" in told


async def test_hosts_file_that_is_a_link_is_made_anew(
    door: Door, spec: SandboxSpec, settings: Settings, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(random_text(20))
    (spec.socket_directory / "hosts").unlink()
    (spec.socket_directory / "hosts").symlink_to(secret)
    body = json.dumps(config_of(spec, settings)).encode()
    assert door.ask("POST", CREATE.format(id=spec.sandbox_id), body)[0] == 201
    assert not (spec.socket_directory / "hosts").is_symlink()
    assert "localhost" in (spec.socket_directory / "hosts").read_text()
    assert door.ask("DELETE", f"/v1.41/containers/tci-{spec.sandbox_id}?force=1&v=1")[0] == 204
    assert len(secret.read_text()) == 20
