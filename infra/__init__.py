"""Settings, composition, entry points and embedded servers."""
