"""Hundreds of tiny programs, compiled without most optimisations, which takes half as long."""

import jax
import pytest

AS_USERS_COMPILE = ("test_published", "test_masks_memory", "test_extremal")
REAL_NETWORK = "test_published"  # the zoo adds biases [C] to maps [N, H, W, C] on purpose


@pytest.fixture(autouse=True, scope="module")
def compile_fast(request):
    name = request.module.__name__.split(".")[-1]
    jax.config.update("jax_disable_most_optimizations", name not in AS_USERS_COMPILE)
    with jax.numpy_rank_promotion("allow" if name == REAL_NETWORK else "raise"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)
