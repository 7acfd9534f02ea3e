"""Runs a flow in this process: alone, or as one worker of a cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.testing import cluster_main, run_main

from features.log import LogError
from streams.lease import LeaseError
from streams.marker import RowsLostError


class WorkerError(RuntimeError):
    """This worker, or another of its cluster, has failed; the log of that one says why."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The processes that run a flow together, one worker in each."""

    addresses: tuple[str, ...] = ()  # host:port of every process; empty: this one alone
    process: int = 0  # which of them this is

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.n_workers:
            raise ValueError(
                f"process must be one of 0..{self.n_workers - 1}, the addresses given; "
                f"got {self.process}"
            )

    @property
    def n_workers(self) -> int:
        """How many workers, in all processes together."""
        return max(len(self.addresses), 1)


ALONE = Cluster()


def run_flow(
    flow: Dataflow,
    epoch_s: float,
    cluster: Cluster = ALONE,
    at_end: Sequence[Callable[[], None]] = (),
    expected: tuple[type[Exception], ...] = (LogError, RowsLostError, LeaseError),
) -> None:
    """Runs `flow` until its sources end; offsets are committed about once an epoch.

    No recovery store: source offsets live in Kafka, rows in the store. `at_end` is called when
    every worker of the cluster has ended well: all that was read is in the sinks then, wherever
    they are. `expected` are the errors of a flow that are raised as they are: LogError when the log
    refuses a record, or no longer has the offset to resume from; RowsLostError when Redis lost rows
    or somebody wants them made anew; LeaseError when another process has them. In a cluster all are
    a WorkerError, whatever the reason and whosever it is.
    """
    epoch = timedelta(seconds=epoch_s)
    if cluster.n_workers == 1:
        _run_alone(flow, epoch, expected)
    else:
        _run_together(flow, epoch, cluster)
    for finish in at_end:
        finish()


def _run_alone(flow: Dataflow, epoch: timedelta, expected: tuple[type[Exception], ...]) -> None:
    try:
        run_main(flow, epoch_interval=epoch)  # type: ignore[no-untyped-call]
    except BytewaxRuntimeError as error:
        if isinstance(error.__cause__, expected):
            raise error.__cause__ from None  # Bytewax wraps it; who called us expects it as it is
        raise


def _run_together(flow: Dataflow, epoch: timedelta, cluster: Cluster) -> None:
    """Ends when any process of the cluster ends: a connection that breaks is a panic in Rust."""
    try:
        cluster_main(  # type: ignore[no-untyped-call]
            flow, list(cluster.addresses), cluster.process, epoch_interval=epoch
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic is no Exception
        raise WorkerError(
            f"worker {cluster.process} of {cluster.n_workers} has ended because it or another "
            f"one failed (step_failed in the log of that one): {error}"
        ) from None
