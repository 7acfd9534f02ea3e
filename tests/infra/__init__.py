"""Tests of the embedded servers, the topics and the composition."""
