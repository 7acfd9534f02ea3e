"""Property tests here have no deadline: the first call of a compiled function compiles it."""

from hypothesis import HealthCheck, settings

settings.register_profile("compiled", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("compiled")
