"""Interrupts that come at the kernel's worst moments: code sends them from inside its own kernel's machinery."""

import time

import pytest

from tests.conftest import Service

BEFORE = ("should_handle", "init_metadata", "heal_streams")
"""Methods that ipykernel, or ours, calls between `busy` and the code."""

AFTER = ("finish_metadata", "post_handler_hook")
"""Methods that it calls between the code and `idle`."""

ARM = """
import os, signal
kernel = get_ipython().kernel
def interrupted(*arguments, own=kernel.{name}, **options):
    if armed:
        armed.pop()
        os.kill(os.getpid(), signal.SIGINT)
    return own(*arguments, **options)
kernel.{name} = interrupted
armed = []
"""

ARM_LATER = """
def arm(*arguments, own=kernel.finish_metadata, **options):
    kernel.finish_metadata = own
    armed.append(1)
    return own(*arguments, **options)
kernel.finish_metadata = arm
"""
"""Arms once the code of this very request has ended: the next request is the one that is hit."""


@pytest.fixture
def session(service: Service) -> str:
    """A session of the test's own: it patches its kernel."""
    session_id: str = service.run("x = 42")["session_id"]
    return session_id


@pytest.mark.parametrize("name", AFTER)
def test_interrupt_after_the_code_breaks_no_answer(service: Service, session: str, name: str) -> None:
    service.run(ARM.format(name=name), session)
    data = service.run("armed.append(1)\nprint(x)", session)
    assert data["outputs"] == [{"type": "stdout", "data": "42\n"}], data
    assert data["execution"]["verdict"] == "ok"
    assert service.stdout("print(armed, x)", session) == "[] 42\n"


@pytest.mark.parametrize("name", BEFORE)
def test_interrupt_before_the_code_ends_it(service: Service, session: str, name: str) -> None:
    service.run(ARM.format(name=name) + ARM_LATER, session)
    data = service.run("print('ran')", session)
    assert [output["type"] for output in data["outputs"]] == ["error"], data
    assert "KeyboardInterrupt" in data["outputs"][0]["data"]
    assert data["execution"]["verdict"] == "error"
    assert service.stdout("print(armed, x)", session) == "[] 42\n"


def test_interrupt_between_two_requests_is_forgotten(service: Service, session: str) -> None:
    service.run("import os, signal, threading; pid = os.getpid()", session)
    service.run("threading.Timer(0.2, os.kill, (pid, signal.SIGINT)).start()", session)
    time.sleep(1)
    assert service.stdout("print(x)", session) == "42\n"
