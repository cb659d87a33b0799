"""An output over the limit costs its own call something, and no later call anything."""

import pytest

from tests.conftest import Service

LIMIT = 16 * 1024**2


@pytest.mark.parametrize(
    "code",
    [
        f"from IPython.display import publish_display_data as p\np({{'text/plain': 'x' * {2 * LIMIT}}})",
        f"raise ValueError('x' * {2 * LIMIT})",
        f"'x' * {2 * LIMIT}",
        f"print('x' * {2 * LIMIT})",
    ],
    ids=["display", "error", "result", "stream"],
)
def test_output_over_the_limit_leaves_the_next_call_whole(service: Service, code: str) -> None:
    data = service.run(code)
    assert data["outputs"], "the answer must say that something was left out"
    assert service.stdout("print('again')", data["session_id"]) == "again\n"
