"""Rules of editors: how they are set, followed, and brought to a request."""
