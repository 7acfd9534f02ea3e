"""Tests of rows, events, stores and the catalogue of features."""
