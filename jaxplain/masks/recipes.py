"""I-GOS, iGOS+ and iGOS++: the recipes. Each binds choices of the one engine and cites its paper."""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel, paths, scores
from jaxplain.checks import check_choice, check_finite, check_image, check_positive_int
from jaxplain.masks.descent import Descent
from jaxplain.masks.engine import Heatmap, Static, optimize_mask
from jaxplain.masks.objective import Coefficients, Objective, Problem, Term
from jaxplain.masks.penalties import edge_weights
from jaxplain.masks.settings import Options, mask_shape, parameters


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
    return _run(IGOS, "igos", score, image, baseline, options)


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
    return _run(IGOS_PLUS, "igos+", score, image, baseline, options)


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
    return _run(IGOS_PP, "igos++", score, image, baseline, options)


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


def _run(
    objective: Objective, method: str, score: Any, image: Array, baseline: Array, options: Options
) -> Heatmap:
    """Resolve the options against the preset, check them, run the compiled engine."""
    chosen = parameters(method, options)
    image, baselines = _check_pictures(image, baseline)
    shape = chosen["size"]
    if shape[0] > image.shape[0] or shape[1] > image.shape[1]:
        raise ValueError(f"size {shape} is finer than the image {image.shape[:2]}.")
    noise = _noise(chosen["noise"])
    if noise is not None and options.get("key") is None:
        raise ValueError("path noise is random: pass key=jax.random.key(...), or noise=0.")
    static = Static(
        objective=objective,
        iterations=check_positive_int(chosen["iterations"], "iterations"),
        search=check_choice(chosen["search"], ("endpoint", "path"), "search"),
        rescue=bool(chosen["rescue"]),
        batch_size=_check_batch_size(chosen.get("batch_size")),
    )
    rule = check_choice(chosen["rule"], paths.RULES, "rule")
    descent = chosen["descent"]
    if not hasattr(descent, "move"):
        raise TypeError(f"descent must be a LineSearch, BestStep, Nesterov or Optax, got {descent!r}.")
    numbers = {name: _one_number(chosen[name], name) for name in Coefficients._fields if name != "noise"}
    sigma = _one_number(chosen["sigma"], "sigma")
    _check_concrete(lambda s: s > 0, sigma, f"sigma must be above 0, got {sigma}.")  # flat areas: 0/0
    return _compiled(
        static,
        scores.as_pytree(score),
        image,
        baselines,
        Coefficients(noise=None if noise is None else _one_number(noise, "noise"), **numbers),
        sigma,
        paths.RULES[rule](check_positive_int(chosen["steps"], "steps")),
        descent,
        _starting_masks(objective, options.get("init"), shape),
        None if noise is None else options.get("key"),
    )


@partial(jax.jit, static_argnums=0)
def _compiled(
    static: Static,
    score: Any,
    image: Array,
    baselines: Array,
    coefficients: Coefficients,
    sigma: Array,
    path: paths.Path,
    descent: Descent,
    masks: Array,
    key: Array | None,
) -> Heatmap:
    problem = Problem(score, image, baselines, edge_weights(image, sigma), path, coefficients)
    return optimize_mask(static, problem, descent, masks, key)


def _check_pictures(image: Array, baseline: Array) -> tuple[Array, Array]:
    """Image [H, W, C] and baselines [H, W, C] or [K, H, W, C] -> float32 [H, W, C] and [K, H, W, C]."""
    check_image(image)
    rank = getattr(baseline, "ndim", 0)
    if rank not in (3, 4) or baseline.shape[-3:] != image.shape or 0 in baseline.shape:
        raise ValueError(
            f"baseline must be {image.shape} like the image, or K of them [K, H, W, C]; "
            f"got shape {getattr(baseline, 'shape', type(baseline).__name__)}."
        )
    check_image(baseline.reshape(-1, *image.shape[1:]), "baseline")
    image, baseline = jnp.asarray(image, jnp.float32), jnp.asarray(baseline, jnp.float32)
    return image, baseline if rank == 4 else baseline[None]


def _starting_masks(objective: Objective, init: Array | None, shape: tuple[int, int]) -> Array:
    if init is None:
        init = jnp.ones(shape)
    if getattr(init, "shape", None) != shape:
        raise ValueError(f"init must be a mask of shape {shape}, got {getattr(init, 'shape', init)!r}.")
    check_finite(init, "init")
    _check_concrete(lambda m: (m >= 0) & (m <= 1), init, "init must lie in 0..1, where 1 keeps a pixel.")
    return jnp.broadcast_to(jnp.asarray(init, jnp.float32), (objective.masks, *shape))


def _check_concrete(holds: Callable[[np.ndarray], Any], values: Array, message: str) -> None:
    """Refuse concrete values of which a condition does not hold; traced ones cannot be looked at."""
    if not isinstance(values, jax.core.Tracer) and not np.all(holds(np.asarray(values))):
        raise ValueError(message)


def _noise(noise: float | Array) -> float | Array | None:
    """None for a concrete 0, which then costs nothing."""
    return None if not isinstance(noise, jax.core.Tracer) and np.all(np.asarray(noise) == 0) else noise


def _one_number(value: float | Array, name: str) -> Array:
    """float32 []; it may be traced."""
    number = jnp.asarray(value, jnp.float32)
    if number.ndim:
        raise ValueError(f"{name} must be one number, got shape {number.shape}; use jax.vmap for a sweep.")
    check_finite(number, name)
    return number


def _check_batch_size(batch_size: int | None) -> int:
    return funnel.default_batch_size() if batch_size is None else check_positive_int(batch_size, "batch_size")


METHODS: dict[str, Callable[..., Heatmap]] = {"igos": igos, "igos+": igos_plus, "igos++": igos_pp}
