"""Asks, over Redis, whichever process runs a session's code to interrupt it."""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tci.errors import Unavailable
from tci.ids import random_text
from tci.storage.redis_client import translated

log = structlog.get_logger()

ANSWER_SECONDS = 1.5
"""How long each process may take to answer: less than the client's own patience with Redis."""

KEEP_SECONDS = 60
"""How long answers stay that nobody fetched."""

LOOK_SECONDS = 5.0
"""After so long without a word the server is asked whether it is there still."""

RETRY_SECONDS = 0.5


class InterruptStore:
    """Every process listens; only the one that runs the session's code says yes.

    So a run costs nothing that nobody interrupts, and the process that decides the verdict knows of the interrupt.
    """

    def __init__(self, redis: Redis, *, deployment: str) -> None:
        self._redis = redis
        self._channel = f"tci:{deployment}:interrupts"

    async def ask(self, session_id: str) -> bool:
        """Have the session's run interrupted, and return whether any process has one; raises Unavailable."""
        answers = f"{self._channel}:{random_text(16)}"
        with translated():
            listeners = await self._redis.publish(self._channel, f"{session_id} {answers}")
            for _ in range(listeners):
                answer: Any = await self._redis.blpop([answers], timeout=ANSWER_SECONDS)
                if answer is None:  # one of them has just died
                    return False
                if answer[1] == b"yes":
                    return True
        return False

    async def listen(self, interrupt: Callable[[str], bool]) -> None:
        """Answer for this process, for ever; `interrupt` says whether it runs code in the session."""
        while True:
            try:
                with translated():
                    await self._listen(interrupt)
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, interrupt: Callable[[str], bool]) -> None:
        is_asked = False
        async with self._redis.pubsub() as heard:
            await heard.subscribe(self._channel)
            while True:
                message = await heard.get_message(timeout=LOOK_SECONDS)
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # redis-py swallows cancellations
                    raise asyncio.CancelledError
                if message is None:
                    if is_asked:
                        raise RedisConnectionError
                    await heard.ping()
                elif message["type"] == "message":
                    session_id, _, answers = message["data"].decode(errors="replace").partition(" ")
                    await self._answer(answers, is_yes=interrupt(session_id))
                is_asked = message is None

    async def _answer(self, answers: str, *, is_yes: bool) -> None:
        pipe: Any = self._redis.pipeline()  # its methods are typed as if each had to be awaited
        async with pipe:
            pipe.rpush(answers, "yes" if is_yes else "no")
            pipe.expire(answers, KEEP_SECONDS)
            await pipe.execute()
