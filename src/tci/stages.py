"""The stages of an execution: each is timed, and is a span where there are traces."""

import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar

from tci import metrics, tracing

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Work = Coroutine[Any, Any, Result]
Name = Literal["open", "turn", "run", "count", "whole"]


class Stage:
    """One stage, in a `with` block. One that fails is not timed: a quick refusal would look like a quick answer."""

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: Name) -> None:
        self._name = name
        self._span: AbstractContextManager[Any] | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        self._span = tracing.span(self._name)
        if self._span is not None:
            self._span.__enter__()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            metrics.STAGE[self._name].observe(time.perf_counter() - self._started)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)


def staged(
    name: Name,
) -> Callable[[Callable[Parameters, Work[Result]]], Callable[Parameters, Work[Result]]]:
    """Make a coroutine function a stage."""

    def decorate(function: Callable[Parameters, Work[Result]]) -> Callable[Parameters, Work[Result]]:
        @wraps(function)
        async def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            with Stage(name):
                return await function(*args, **kwargs)

        return run

    return decorate
