"""Which patches a beam search should try first."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, paths, scores
from jaxplain.checks import check_positive_int
from jaxplain.perturb import blend, upsample
from jaxplain.sag.patches import Scene, check_scene, grid_shape

STEPS = 16


def proposal_map(
    score: scores.Score,
    image: Array,
    baseline: Array,
    *,
    grid: int | tuple[int, int] = (7, 7),
    steps: int = STEPS,
    batch_size: int | None = None,
) -> Array:
    """How much each patch adds to the score: integrated gradients over the grid, float32 [rows, cols].

    The score's gradient in the patches, averaged on the straight path from the baseline to the image: what
    I-GOS starts from. On photos it led to more and smaller explanations than the mask that I-GOS makes of it
    in the published two iterations, which does not leave 1 where the classifier is confident.

    Args:
      score: images [N, H, W, C] -> [N].
      image: [H, W, C], model space.
      baseline: [H, W, C].
      grid: rows and columns of patches (static).
      steps: forward and backward passes (static).
      batch_size: images per model call; None chooses by platform.

    Raises:
      ValueError, TypeError: shapes or options that do not fit.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> corner = lambda images: images[:, 0, 0, 0]
      >>> jx.sag.proposal_map(corner, jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3)), grid=2).round(2).tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    shape = grid_shape(grid)
    check_scene(image, baseline, shape)
    count = check_positive_int(steps, "steps")
    return _integrated(
        scores.as_pytree(score), Scene(image, baseline), grid=shape, steps=count, batch_size=batch_size
    )


class _Node(NamedTuple):
    """A point of the path."""

    share: Array  # of the way from the baseline to the image


@partial(jax.jit, static_argnames=("grid", "steps", "batch_size"))
def _integrated(
    score: scores.Score, scene: Scene, *, grid: tuple[int, int], steps: int, batch_size: int | None
) -> Array:
    nodes, weights = paths.midpoint(steps)
    everything = jnp.ones(grid)
    # The patches are scaled by the node inside `_draw`, and so is their gradient, which that undoes.
    found = funnel.value_and_grad(
        score, _draw, everything, scene, _Node(nodes), weights / nodes, batch_size=batch_size
    )
    return found.grads


def _draw(patches: Array, scene: Scene, node: _Node) -> Array:
    image, baseline = scene
    return blend(image, baseline, upsample(node.share * patches, (image.shape[0], image.shape[1])))
