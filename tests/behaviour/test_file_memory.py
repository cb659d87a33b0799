"""What a large file costs the service and the kernel's process on its way: a few pieces, whatever its size."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.behaviour.test_memory_bound import MIB, grown_while
from tests.conftest import Service

SIZE = 300 * MIB
BOUND_BYTES = 32 * MIB
"""Of which most is the allocator's: a piece has half a MiB, and three copies of it at most."""

PEAK = """
import re
open('/proc/self/clear_refs', 'w').write('5')
def memory(name): return int(re.search(name + r':\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024
anonymous = memory('RssAnon')
"""


def zeros(pause: float = 0.0) -> Iterator[bytes]:
    for number in range(SIZE // MIB):
        yield bytes(MIB)
        if number % 50 == 0:
            time.sleep(pause)


def test_large_file_up_and_down_grows_neither_side(start_service: Callable[..., Service]) -> None:
    service = start_service()
    session_id = service.run(PEAK)["session_id"]
    url = f"/tci/sessions/{session_id}/files/large"
    service.client.put(url, content=b"warm")
    service.client.get(url)

    def up() -> None:
        assert service.client.put(url, content=zeros()).json()["data"]["file"]["size"] == SIZE

    def down() -> None:
        with service.client.stream("GET", url) as answer:
            assert sum(len(piece) for piece in answer.iter_bytes()) == SIZE

    def down_slowly() -> None:
        """Leave the kernel to send as it likes, and read a little of it."""
        with service.client.stream("GET", url) as answer:
            pieces = answer.iter_bytes(MIB)
            for _ in range(5):
                next(pieces)
                time.sleep(0.3)

    def up_slowly() -> None:
        assert service.client.put(url, content=zeros(pause=0.3)).status_code == 200

    for work in (up, down, down_slowly, up_slowly):
        grown = grown_while(service, work)
        assert grown <= BOUND_BYTES, f"{work.__name__}: {grown / MIB:.1f} MiB"
    # The file itself is shared memory, and none of the process's own.
    assert int(service.stdout("print(memory('RssAnon') - anonymous)", session_id)) <= BOUND_BYTES
    assert Path(f"/proc/{service.process.pid}").exists()


def test_upload_beyond_the_disk_of_the_session_is_refused_and_leaves_nothing(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(sandbox_disk_bytes=20 * MIB, keep_sessions=False)
    session_id = service.run("")["session_id"]
    url = f"/tci/sessions/{session_id}/files/large"
    for content in (bytes(21 * MIB), iter([bytes(MIB)] * 40)):
        answer = service.client.put(url, content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "disk_full"), answer.text
    service.run(f"open('half', 'wb').write(bytes({15 * MIB}))", session_id)
    answer = service.client.put(url, content=bytes(10 * MIB))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "disk_full"), answer.text
    assert (
        service.stdout("import os; print(sorted(n for n in os.listdir() if 'large' in n or '.part' in n))", session_id)
        == "[]\n"
    )
    assert service.client.put(url, content=bytes(4 * MIB)).status_code == 200
