"""Explanation networks are compiled without most optimisations, which takes two thirds of the time."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
