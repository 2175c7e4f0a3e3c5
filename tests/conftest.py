"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# Machines are shared: an example that took long says nothing. One that fails is printed, with what
# repeats it.
settings.register_profile(
    "shared", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("shared")
