"""Hundreds of tiny programs, compiled without most optimisations, which takes half as long."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compile_fast(request):
    # A real network and memory: as users compile.
    is_core = not request.module.__name__.endswith(("test_published", "test_masks_memory"))
    jax.config.update("jax_disable_most_optimizations", is_core)
    with jax.numpy_rank_promotion("raise" if is_core else "allow"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)
