"""Compiles the functions of all packages into the cache on disk: `make compiled`.

Where several processes start at once on fresh sources, each would compile the same.
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
import structlog

from infra.train import LocalFeatures, train_bundle
from offline.datasets import Selection
from offline.simulated_dataset import SimulatedDataset
from offline.simulator import SimulationConfig
from offline.train import TrainConfig
from serving.bundle import load_current
from serving.overlay import Overlay
from serving.recommender import Recommender
from serving.selection.explorer import Beliefs, Explorer
from serving.slate import Filters, Query, Viewer
from streams.warm_up import warm_up

WORLD = SimulationConfig(n_users=200, n_items=400, seed=1)
PART = Selection(first_share=0.1)
POLICY = "thompson"


def precompile() -> None:
    """Runs a little of everything: about a minute on fresh sources, seconds after that."""
    warm_up()
    world = SimulatedDataset(WORLD)
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        train_bundle(world, Path(folder), selection=PART, config=TrainConfig(max_queries=200))
        bundle = load_current(Path(folder))
    local = LocalFeatures(world.columns(PART), world.catalogue())
    local.advance(len(local.columns))
    explorer = Explorer(1.0, np.random.default_rng(0))
    beliefs = Beliefs.none_yet(POLICY)
    recommender = Recommender(
        local.table, local.mirror, bundle, explorer=explorer, overlay=Overlay(0, beliefs)
    )
    now_ms = local.now_ms(len(local.columns) - 1)
    recommender.warm_up(now_ms)
    for viewer in (Viewer(None), local.viewer(0)):
        recommender.recommend(Query("warm-up"), viewer, now_ms)
        recommender.recommend(Query("warm-up", filters=Filters(min_rating=9.0)), viewer, now_ms)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    precompile()
