"""The console of those on call: what is behind, since when, who is affected, what to do."""
