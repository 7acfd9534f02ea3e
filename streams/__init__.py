"""Dataflows: one file each, from the log to served state."""
