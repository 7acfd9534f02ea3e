"""Who may call, how often, and what happens when more call than can be answered. No transport."""
