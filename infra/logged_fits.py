"""Composition of fits on the log: outcomes and the current bundle's ranker to a new bundle."""

import time

import lightgbm

from features.bundle_format import Manifest
from features.log import read_to_end
from infra import topics
from infra.settings import Settings
from offline.bundle import read_ranking, write_fits
from offline.logged_fits import LoggedFits, fit_logged, outcomes_of_log


def fit_on_log(settings: Settings) -> tuple[Manifest, LoggedFits]:
    """A bundle with weights and table of the topic of outcomes; it becomes current.

    Raises LogError, BundleError, TooFewOutcomesError.
    """
    folder = settings.bundles()
    _, ranker, _ = read_ranking(folder)
    topic = settings.kafka.prefix + topics.OUTCOMES
    outcomes = outcomes_of_log(read_to_end(settings.kafka.log_config(), topic))
    fits = fit_logged(outcomes, lightgbm.Booster(model_str=ranker))
    made_ms = time.time_ns() // 1_000_000
    return write_fits(folder, fits.fusion, fits.calibration, fits.figures, made_ms), fits
