"""Settings for every test."""

from hypothesis import settings

settings.register_profile("evolve", deadline=None)  # no test asserts an absolute time
settings.load_profile("evolve")
