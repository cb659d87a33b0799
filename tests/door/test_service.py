"""A service that knows the engine by the door alone."""

from tests.conftest import serving
from tests.door.conftest import Door


def test_service_behind_the_door_serves(door: Door) -> None:
    with serving("docker", door.data_dir, docker_host=door.url) as service:
        first = service.run("kept = 'still here'")
        assert service.stdout("print(kept)", first["session_id"]) == "still here\n"
        assert service.stdout("import pathlib; print(pathlib.Path('/etc/hosts').read_text())").startswith("127.0.0.1")
