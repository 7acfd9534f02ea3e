"""Failures of steps, logged where they happen: of a worker in a cluster Bytewax tells only that."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import structlog

P = ParamSpec("P")
R = TypeVar("R")

log = structlog.get_logger(__name__)


def reported(step: Callable[P, R]) -> Callable[P, R]:
    """The same function; what it raises is logged first, the end of a source excepted."""

    @wraps(step)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return step(*args, **kwargs)
        except StopIteration:
            raise
        except Exception as error:
            log.error("step_failed", step=step.__qualname__, error=f"{error!r}")
            raise

    return call
