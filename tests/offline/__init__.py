"""Tests of datasets, downloads, replay and simulation."""
