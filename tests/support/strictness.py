"""How a test module is run: without implicit rank promotion, and compiled without most optimisations."""

from contextlib import contextmanager

import jax


@contextmanager
def strict_and_quick(promotion="raise"):
    """No array gains an axis implicitly, so that a mask [h, w] times an image [H, W, C] is an error.

    Hundreds of tiny programs are compiled without most optimisations, which takes half as long.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_rank_promotion(promotion):
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # thousands of compiled programs in one process exceed the limit of memory maps
