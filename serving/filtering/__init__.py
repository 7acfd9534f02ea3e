"""What may be shown, to whom and when."""
