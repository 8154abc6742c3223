"""I-GOS, iGOS+ and iGOS++: the recipes. Each binds choices of the one engine and cites its paper."""

from collections.abc import Callable
from typing import Unpack

import jax.numpy as jnp
from jax import Array

from jaxplain import scores
from jaxplain.masks.engine import Heatmap
from jaxplain.masks.objective import Objective, Term
from jaxplain.masks.run import run_recipe
from jaxplain.masks.settings import Options, mask_shape


def _single(masks: Array) -> Array:
    return masks


def _with_product(masks: Array) -> Array:
    return jnp.concatenate([masks, masks[:1] * masks[1:]])


IGOS = Objective(masks=1, combine=_single, terms=(Term(0, insertion=False),), smoothness="tv")
IGOS_PLUS = Objective(
    masks=1,
    combine=_single,
    terms=(Term(0, insertion=False), Term(0, insertion=True)),
    smoothness="btv",
)
IGOS_PP = Objective(
    masks=2,
    combine=_with_product,
    terms=(
        Term(0, insertion=False),
        Term(1, insertion=True),
        Term(2, insertion=False),
        Term(2, insertion=True),
    ),
    smoothness="btv",
)


def igos(score: scores.Score, image: Array, baseline: Array, **options: Unpack[Options]) -> Heatmap:
    """I-GOS: the smallest smooth mask whose removal destroys the score, found with integrated gradients.

    Minimises `F(m) + l1 * mean|1 - m| + l2 * TV(m)` over one mask m, where F integrates the score along the
    path from the baseline to the masked image.

    Args:
      score: what to explain, a callable pytree from images [N, H, W, C] to [N]; see `class_score`. A plain
        function works, but every new function object compiles anew.
      image: [H, W, C] float, in the model's input space.
      baseline: what hides a pixel, [H, W, C], or K of them [K, H, W, C] to average over.
      **options: see `Options`; what is left out comes from the preset.

    Returns:
      A `Heatmap`: `saliency` [H, W] (high = important), `mask` [h, w] (low = important), status, history.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit; a NaN in the image or baseline.
        A score that is NaN or not above its baseline's is no error but a `Status` in the result.

    References:
      Qi, Khorram, Fuxin. Visualizing Deep Networks by Optimizing with Integrated Gradients. AAAI 2020.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> heatmap = jx.igos(score, image, jnp.zeros((16, 16, 3)), size=8)
      >>> heatmap.saliency.shape, int(heatmap.status)
      ((16, 16), 0)
    """
    return run_recipe(IGOS, "igos", score, image, baseline, options)


def igos_plus(score: scores.Score, image: Array, baseline: Array, **options: Unpack[Options]) -> Heatmap:
    """iGOS+: one mask whose removal destroys the score and whose content alone restores it.

    Minimises `F(m) - G(m) + l1 * mean|1 - m| + l2 * BTV(m)`, with G the score integrated along the path from
    the image to the baseline, and a total variation that is lenient at the image's edges.

    Arguments, result, errors: see `igos`.

    References:
      Khorram, Lawson, Fuxin. iGOS++: Integrated Gradient Optimized Saliency by Bilateral Perturbations.
      ACM CHIL 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> jx.igos_plus(score, image, jnp.zeros((16, 16, 3)), size=8).mask.shape
      (8, 8)
    """
    return run_recipe(IGOS_PLUS, "igos+", score, image, baseline, options)


def igos_pp(score: scores.Score, image: Array, baseline: Array, **options: Unpack[Options]) -> Heatmap:
    """iGOS++: a mask x for deletion, a mask y for insertion, and their product z = x * y, the result.

    Minimises `w * (F(x) - G(y) + F(z) - G(z)) + l1 * mean|1 - z| + l2 * BTV(z)` with F and G as in `igos` and
    `igos_plus` and w = 1/2 (`score_weight`); the search for a step compares the sum without w, as the
    authors' program does. Products are taken after upsampling for the scores, before it for the penalties.

    Arguments, result, errors: see `igos`.

    References:
      Khorram, Lawson, Fuxin. iGOS++: Integrated Gradient Optimized Saliency by Bilateral Perturbations.
      ACM CHIL 2021.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> explain = lambda l1: jx.igos_pp(score, image, jnp.zeros((16, 16, 3)), size=8, l1=l1).mask
      >>> jax.vmap(explain)(jnp.array([0.1, 1.0, 10.0])).shape  # a sweep is one compilation
      (3, 8, 8)
    """
    return run_recipe(IGOS_PP, "igos++", score, image, baseline, options)


def diverse_init(
    size: int | tuple[int, int], grid: int, cell: tuple[int | Array, int | Array], value: float | Array = 0.5
) -> Array:
    """A starting mask lowered by `value` in one cell of a grid x grid division: float32 [h, w].

    Different cells lead to different explanations of one image (Jiang, Khorram, Fuxin, BMVC 2023). `cell` and
    `value` may be traced: a vmap over cells is one compilation.
    """
    rows, cols = mask_shape(size)
    inside_row = jnp.arange(rows) * grid // rows == cell[0]
    inside_col = jnp.arange(cols) * grid // cols == cell[1]
    return 1.0 - value * (inside_row[:, None] & inside_col[None, :])


METHODS: dict[str, Callable[..., Heatmap]] = {"igos": igos, "igos+": igos_plus, "igos++": igos_pp}
