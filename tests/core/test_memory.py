"""The memory rule, read off the compiled program: what a whole run needs is one model call of `batch_size`
images, forward and backward, and a few pictures; not more for more iterations, steps, candidates or images.

Bound: 1.75 x the temporary memory of one call + 6 float32 pictures for every image explained at once.
Measured on XLA's CPU backend: 1.2 x for batch size 1, 1.3 x to 1.62 x for 4, and 4 pictures an image.
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support.memory import PICTURE, SCORE, pictures, temporary_bytes

import jaxplain as jx


def test_curves_need_one_call_and_a_few_pictures():
    """Without a backward pass, so measured by the forward one; 50 points of two curves."""
    forward = temporary_bytes(SCORE, pictures(4))
    saliency = jax.ShapeDtypeStruct((14, 14), jnp.float32)
    run = partial(jx.insertion_deletion, batch_size=4)
    needed = temporary_bytes(run, SCORE, pictures(), pictures(), saliency)
    assert needed <= 1.25 * forward + 6 * PICTURE


@pytest.mark.slow
def test_recomputed_blocks_need_less_memory():
    """With the barriers between the two computations of a block kept. By itself XLA's CPU backend (not that
    of GPUs) takes them out and then merges equal computations, which undoes it."""
    build = jx.zoo.MODELS["efficientnet-lite0"].build
    model = nnx.eval_shape(lambda: build("efficientnet-lite0", ("yes", "no"), rngs=nnx.Rngs(0)))

    def needed(model):
        gradient = jax.jit(jax.grad(lambda images, model: model(images)[:, 1].sum()))
        lowered = gradient.lower(jax.ShapeDtypeStruct((4, 96, 96, 3), jnp.float32), model)
        barriers_kept = {"xla_disable_hlo_passes": "cse_barrier_expander"}
        return lowered.compile(compiler_options=barriers_kept).memory_analysis().temp_size_in_bytes

    assert needed(jx.rematerialize(model)) < 0.7 * needed(model)
