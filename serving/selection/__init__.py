"""Which candidate gets which slot of a slate, and with what probability."""
