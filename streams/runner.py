"""Runs a flow in this thread."""

from datetime import timedelta

from bytewax.dataflow import Dataflow
from bytewax.testing import run_main


def run_flow(flow: Dataflow, epoch_s: float) -> None:
    """Runs `flow` until its sources end; offsets are committed about once an epoch.

    One worker, no recovery store: source offsets live in Kafka, rows in the store.
    """
    run_main(flow, epoch_interval=timedelta(seconds=epoch_s))  # type: ignore[no-untyped-call]
