"""What holds for every test."""

import functools

import jax
import pytest
from hypothesis import HealthCheck, settings

# On a busy machine an example may take any time.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="module")
def quick_compilation():
    """For files whose time is nearly all compiling: `jax.jit` without the backend's optimising."""
    plain = jax.jit
    jax.jit = functools.partial(plain, compiler_options={"xla_backend_optimization_level": "0"})
    yield
    jax.jit = plain
