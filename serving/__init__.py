"""Answers: retrieve, hydrate, filter, score, select, record."""
