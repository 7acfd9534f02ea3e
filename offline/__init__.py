"""Datasets, replay, simulation, training and evaluation."""
