"""Models that learn from each outcome. Pure: no input, no output, no clock of their own."""
