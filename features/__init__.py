"""What is known of viewers and titles: events, rows, their store, and the log they come from."""
