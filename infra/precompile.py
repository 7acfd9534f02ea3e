"""Compiles the functions of all packages into the cache on disk, once after a change of any.

For machines where several processes start at once on fresh sources: each would compile the same.
"""

import logging

import structlog

from infra.evaluate import evaluate_replay
from offline.simulated_dataset import SimulatedDataset
from offline.simulator import SimulationConfig
from offline.train import TrainConfig
from streams.warm_up import warm_up

WORLD = SimulationConfig(n_users=300, n_items=400, seed=1)
N_SLATES = 20


def precompile() -> None:
    """Runs a little of everything: about a minute on fresh sources, seconds after that."""
    warm_up()
    evaluate_replay(SimulatedDataset(WORLD), limit=N_SLATES, config=TrainConfig(max_queries=400))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    precompile()
