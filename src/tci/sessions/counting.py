"""Counts executions by how they ended."""

from collections.abc import Callable
from functools import wraps

from tci import metrics
from tci.sessions.session import Execution
from tci.stages import Parameters, Stage, Work


def counted(execute: Callable[Parameters, Work[Execution]]) -> Callable[Parameters, Work[Execution]]:
    """Count each call of `execute`: its verdict, or why it gave none; and time it as a whole."""

    @wraps(execute)
    async def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Execution:
        try:
            with Stage("whole"):
                execution = await execute(*args, **kwargs)
        except BaseException as error:
            metrics.count_failed_execution(error)
            raise
        metrics.EXECUTIONS_ENDED.labels(execution.verdict.value).inc()
        return execution

    return run
