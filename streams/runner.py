"""Runs a flow in this thread."""

from datetime import timedelta

from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.testing import run_main

from features.log import LogError


def run_flow(
    flow: Dataflow, epoch_s: float, expected: tuple[type[Exception], ...] = (LogError,)
) -> None:
    """Runs `flow` until its sources end; offsets are committed about once an epoch.

    One worker, no recovery store: source offsets live in Kafka, rows in the store. Raises LogError
    when the log refuses a record, or no longer has the offset to resume from; `expected` are the
    errors of a flow that are raised as they are.
    """
    try:
        run_main(flow, epoch_interval=timedelta(seconds=epoch_s))  # type: ignore[no-untyped-call]
    except BytewaxRuntimeError as error:
        if isinstance(error.__cause__, expected):
            raise error.__cause__ from None  # Bytewax wraps it; who called us expects it as it is
        raise
