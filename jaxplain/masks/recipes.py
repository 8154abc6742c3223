"""I-GOS, iGOS+, iGOS++, meaningful perturbation and ablations: recipes for one shared engine.

The options size, iterations, n_steps, rule, search, rescue, batch_size and the type of `descent` are static:
a new value triggers recompilation. All other options may be traced, so a sweep over them is one `jax.vmap`.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxplain import paths, scores
from jaxplain.checks import (
    Pair,
    as_grid,
    as_image,
    as_key,
    as_number,
    as_pair,
    check_batch_size,
    check_choice,
    check_finite,
    check_positive_int,
    check_where,
)
from jaxplain.explanation import Explanation
from jaxplain.masks.descent import BestStep, Descent, FixedStep, LineSearch, Optax
from jaxplain.masks.engine import SEARCHES, EngineChoices, optimize_mask
from jaxplain.masks.objective import Coefficients, Objective, Problem, Term, edge_weights
from jaxplain.perturb import as_baselines

# The defaults were tuned for deletion and insertion on real photos (benchmarks/heatmaps.py), with
# EfficientNet-Lite0 and 28 x 28 masks. There, noise along the path worsened both metrics, and evaluating
# candidates at the end of the path was good enough, at a third of the cost.
_BEST_STEP = BestStep()
_ADAM = Optax(optax.adam(0.1))  # created once, to avoid recompiling in every call


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
MEANINGFUL = replace(IGOS, power=3.0)


class MaskOptions(NamedTuple):
    """The keyword arguments of every recipe; see `igos`."""

    key: Array | None
    batch_size: int | None
    size: Pair
    iterations: int
    n_steps: int
    rule: str
    search: str
    descent: Descent
    l1: float | Array | None
    l2: float | Array | None
    noise: float | Array
    score_weight: float | Array
    deletion: float | Array
    insertion: float | Array
    jitter: float | Array
    sigma: float | Array
    rescue: bool
    init: Array | None


def igos(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    size: Pair = 28,
    iterations: int = 15,
    n_steps: int = 5,
    rule: str = "gauss_legendre",
    search: str = "endpoint",
    descent: Descent = _BEST_STEP,
    l1: float | Array | None = 0.1,
    l2: float | Array | None = None,
    noise: float | Array = 0.0,
    score_weight: float | Array = 1.0,
    deletion: float | Array = 2.0,
    insertion: float | Array = 1.0,
    jitter: float | Array = 0.0,
    sigma: float | Array = 0.01,
    rescue: bool = False,
    init: Array | None = None,
) -> Explanation:
    """Explain with I-GOS: find the smallest smooth region whose removal destroys the score.

    Minimizes `deletion * F(m) + l1 * mean|1 - m| + l2 * TV(m)` over one mask m, where F is the score
    integrated along the path from the baseline to the masked image. The published options are
    `PAPER["igos"]`.

    Args:
      score: the score to explain, a callable pytree from images [N, H, W, C] to [N]; see `class_score`. A
        plain function also works.
      image: [H, W, C] float, in the model's input space.
      baseline: image that replaces hidden pixels, [H, W, C], or K images [K, H, W, C] to average over;
        default: the blurred image.
      key: random key for `noise` and `jitter`; consumed, but not needed if both are 0.
      batch_size: images per model call; default: chosen for the platform.
      size: rows and columns of the mask, at most the image's; a single number sets both. The default is
        reduced for smaller images.
      iterations: number of mask updates.
      n_steps: number of nodes on the integration path.
      rule: quadrature rule for the path: "riemann", "midpoint" or "gauss_legendre".
      search: where to evaluate the loss of candidate masks: at the end of the path ("endpoint"), along the
        path ("path"), or together with the next gradient ("gradient", only for update rules that do not
        compare candidates).
      descent: rule that updates the mask: `BestStep`, `LineSearch`, `FixedStep`, `Nesterov` or `Optax`.
      l1: weight of the size penalty. If None, the published value: 10 if the mask's longer side is at least
        224, otherwise 1.
      l2: weight of the smoothness penalty; default: 20 / 224 times the mask's longer side, because the
        fraction of neighbors on the boundary of the masked region is proportional to 1 / side.
      noise: standard deviation of the Gaussian noise along the path, in model space.
      score_weight: weight of the score terms relative to the penalties; affects the gradient, but not the
        measured loss.
      deletion: weight of the deletion terms.
      insertion: weight of the insertion terms; unused in I-GOS.
      jitter: maximum random shift of the image under the mask, in whole pixels.
      sigma: width of the edge weights in the bilateral total variation; unused in I-GOS.
      rescue: whether to lower `l1` during the run if the score hardly changes.
      init: initial mask [h, w] in [0, 1]; default: ones. See `diverse_init`.

    Returns:
      An `Explanation` with importance [h, w] in [0, 1] and `MaskDetails`. It is not differentiable:
      `jax.grad` with respect to anything the arguments depend on raises a TypeError.

    Raises:
      ValueError, TypeError: if shapes, dtypes or options are invalid, or the image or baseline contains NaN.
        A score that is NaN or not above the baseline's sets the status instead.

    References:
      Qi, Khorram, Fuxin. Visualizing Deep Networks by Optimizing with Integrated Gradients. AAAI 2020.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> found = jx.igos(score, image, jnp.zeros((16, 16, 3)), size=8)
      >>> found.importance.shape, int(found.status)
      ((8, 8), 0)
    """
    options = MaskOptions(
        key=key, batch_size=batch_size, size=size, iterations=iterations, n_steps=n_steps, rule=rule,
        search=search, descent=descent, l1=l1, l2=l2, noise=noise, score_weight=score_weight,
        deletion=deletion, insertion=insertion, jitter=jitter, sigma=sigma, rescue=rescue, init=init,
    )  # fmt: skip
    return _optimized(IGOS, score, image, baseline, options)


def igos_plus(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    size: Pair = 28,
    iterations: int = 10,
    n_steps: int = 3,
    rule: str = "gauss_legendre",
    search: str = "endpoint",
    descent: Descent = _BEST_STEP,
    l1: float | Array | None = 1.0,
    l2: float | Array | None = None,
    noise: float | Array = 0.0,
    score_weight: float | Array = 1.0,
    deletion: float | Array = 2.0,
    insertion: float | Array = 1.0,
    jitter: float | Array = 0.0,
    sigma: float | Array = 0.01,
    rescue: bool = False,
    init: Array | None = None,
) -> Explanation:
    """Explain with iGOS+: find one region whose removal destroys the score and that alone restores it.

    Minimizes `deletion * F(m) - insertion * G(m) + l1 * mean|1 - m| + l2 * BTV(m)`. F is defined as in
    `igos`, G is the score integrated along the path from the image to the image masked by the complement of
    m, and BTV is a total variation that is relaxed at the image's edges. The published options are
    `PAPER["igos+"]`.

    See `igos` for arguments, return value and errors.

    References:
      Khorram, Lawson, Fuxin. iGOS++: Integrated Gradient Optimized Saliency by Bilateral Perturbations.
      ACM CHIL 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> jx.igos_plus(score, image, jnp.zeros((16, 16, 3)), size=8).saliency(16, 16).shape
      (16, 16)
    """
    options = MaskOptions(
        key=key, batch_size=batch_size, size=size, iterations=iterations, n_steps=n_steps, rule=rule,
        search=search, descent=descent, l1=l1, l2=l2, noise=noise, score_weight=score_weight,
        deletion=deletion, insertion=insertion, jitter=jitter, sigma=sigma, rescue=rescue, init=init,
    )  # fmt: skip
    return _optimized(IGOS_PLUS, score, image, baseline, options)


def igos_pp(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    size: Pair = 28,
    iterations: int = 8,
    n_steps: int = 3,
    rule: str = "gauss_legendre",
    search: str = "endpoint",
    descent: Descent = _BEST_STEP,
    l1: float | Array | None = 1.0,
    l2: float | Array | None = None,
    noise: float | Array = 0.0,
    score_weight: float | Array = 0.5,
    deletion: float | Array = 2.0,
    insertion: float | Array = 1.0,
    jitter: float | Array = 0.0,
    sigma: float | Array = 0.01,
    rescue: bool = False,
    init: Array | None = None,
) -> Explanation:
    """Explain with iGOS++: optimize masks x for deletion and y for insertion, and their product z = x * y.

    Minimizes `w * (F(x) - G(y) + F(z) - G(z)) + l1 * mean|1 - z| + l2 * BTV(z)`. F and G are defined as in
    `igos_plus` and weighted by `deletion` and `insertion`; w is `score_weight`, 1/2 by default. The step
    search ignores w, as in the authors' code. The masks are multiplied after upsampling for the scores, and
    before upsampling for the penalties. The result is z. The published options are `PAPER["igos++"]`.

    See `igos` for arguments, return value and errors.

    References:
      Khorram, Lawson, Fuxin. iGOS++: Integrated Gradient Optimized Saliency by Bilateral Perturbations.
      ACM CHIL 2021.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> explain = lambda l1: jx.igos_pp(score, image, jnp.zeros((16, 16, 3)), size=8, l1=l1).importance
      >>> jax.vmap(explain)(jnp.array([0.1, 1.0, 10.0])).shape  # a sweep is one compilation
      (3, 8, 8)
    """
    options = MaskOptions(
        key=key, batch_size=batch_size, size=size, iterations=iterations, n_steps=n_steps, rule=rule,
        search=search, descent=descent, l1=l1, l2=l2, noise=noise, score_weight=score_weight,
        deletion=deletion, insertion=insertion, jitter=jitter, sigma=sigma, rescue=rescue, init=init,
    )  # fmt: skip
    return _optimized(IGOS_PP, score, image, baseline, options)


def meaningful_perturbation(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    size: Pair = 28,
    iterations: int = 300,
    n_steps: int = 1,
    rule: str = "riemann",
    search: str = "gradient",
    descent: Descent = _ADAM,
    l1: float | Array | None = 0.01,
    l2: float | Array | None = 0.2,
    noise: float | Array = 0.0,
    score_weight: float | Array = 1.0,
    deletion: float | Array = 1.0,
    insertion: float | Array = 1.0,
    jitter: float | Array = 0.0,
    sigma: float | Array = 0.01,
    rescue: bool = False,
    init: Array | None = None,
) -> Explanation:
    """Explain with meaningful perturbation: find the smallest smooth region whose removal destroys the score.

    Minimizes `f(phi(m)) + l1 * mean|1 - m| + l2 * TV(m)`, with an exponent of 3 in TV, by 300 steps of Adam
    (learning rate 0.1), each projected onto [0, 1]. This is I-GOS with the masked image itself instead of the
    path to it. The default weights assume that the penalties are means over the mask's cells, as implemented
    here; the paper uses sums.

    The result is the best mask visited. Losses are computed along with the gradients, at no extra cost.

    With `jitter=4` (off by default; requires a `key`), the image is shifted randomly under the mask by up to
    4 pixels in each iteration. The paper does this to keep masks from fitting single pixels; it makes the
    losses noisy.

    See `igos` for arguments, return value and errors.

    References:
      Fong, Vedaldi. Interpretable Explanations of Black Boxes by Meaningful Perturbation. ICCV 2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import masks
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> found = masks.meaningful_perturbation(score, image, jnp.zeros((16, 16, 3)), size=8)
      >>> found.importance.shape, bool(found.importance[3, 3] > 0.5 > found.importance[7, 7])
      ((8, 8), True)
    """
    options = MaskOptions(
        key=key, batch_size=batch_size, size=size, iterations=iterations, n_steps=n_steps, rule=rule,
        search=search, descent=descent, l1=l1, l2=l2, noise=noise, score_weight=score_weight,
        deletion=deletion, insertion=insertion, jitter=jitter, sigma=sigma, rescue=rescue, init=init,
    )  # fmt: skip
    return _optimized(MEANINGFUL, score, image, baseline, options)


def _published(score_weight: float) -> dict[str, Any]:
    return {
        "iterations": 15,
        "n_steps": 20,
        "rule": "riemann",
        "search": "path",
        "descent": LineSearch(),
        "l1": None,
        "l2": 20.0,
        "noise": 0.2,
        "score_weight": score_weight,
        "deletion": 1.0,
        "insertion": 1.0,
        "jitter": 0.0,
        "sigma": 0.01,
        "rescue": False,
    }


PAPER: dict[str, dict[str, Any]] = {
    "igos": _published(score_weight=1.0),
    "igos+": _published(score_weight=1.0),
    "igos++": _published(score_weight=0.5),
}
"""The published options as keyword arguments, by name: `igos_pp(score, image, key=key, **PAPER["igos++"])`.

They include noise, so a `key` is required. `l1` is None, which means 10 for masks of 224 x 224 and larger,
and 1 otherwise.
"""


# ---------------------------------------------------------------------------------------------------------
# Ablations


def _ablation(name: str, objective: Objective = IGOS_PP, **fixed: Any) -> Callable[..., Explanation]:
    """Return `igos_pp` with a different objective or with fixed options, removed from its signature."""
    full = inspect.signature(igos_pp)
    remaining = [parameter for parameter in full.parameters.values() if parameter.name not in fixed]
    signature = full.replace(parameters=remaining)

    @wraps(igos_pp)
    def ablation(*arguments: Any, **options: Any) -> Explanation:
        clashes = sorted(fixed.keys() & options.keys())
        if clashes:
            clash = clashes[0]
            raise TypeError(f"the ablation {name!r} fixes {clash} = {fixed[clash]!r}; do not pass {clash}.")
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        chosen = bound.arguments | fixed
        score, image, baseline = (chosen.pop(name) for name in ("score", "image", "baseline"))
        return _optimized(objective, score, image, baseline, MaskOptions(**chosen))

    ablation.__name__ = ablation.__qualname__ = "igos_pp_" + name.replace("-", "_")
    ablation.__signature__ = signature  # type: ignore[attr-defined]
    ablation.__doc__ = f"Explain with an ablation of iGOS++: {name}.\n\nSee `ABLATIONS` and `igos_pp`."
    return ablation


_INSERTION_ONLY = replace(IGOS_PLUS, terms=(Term(0, insertion=True),))
_DELETION_ONLY = replace(IGOS_PLUS, terms=(Term(0, insertion=False),))
ABLATIONS: dict[str, Callable[..., Explanation]] = {
    "insertion-only": _ablation("insertion-only", _INSERTION_ONLY, search="path"),
    "deletion-only": _ablation("deletion-only", _DELETION_ONLY),
    "naive-sum": _ablation("naive-sum", IGOS_PLUS),
    "no-noise": _ablation("no-noise", noise=0.0),
    "with-noise": _ablation("with-noise", noise=0.2),
    "fixed-step": _ablation("fixed-step", descent=FixedStep()),
    "no-btv": _ablation("no-btv", l2=0.0),
}
"""Ablations of iGOS++, by name. Each has the signature of `igos_pp`, without the option that it fixes.

- "insertion-only", "deletion-only": one mask, one type of score term, and the bilateral penalty. For
  "insertion-only", candidates are evaluated along the path: at its end, where nothing is visible at first, no
  small step restores anything, and the mask did not change on 43 of 50 photos.
- "naive-sum": both types of score term for one mask, i.e. the iGOS+ objective with the iGOS++ options.
- "no-noise", "with-noise": noise along the path with standard deviation 0 or 0.2. The default is 0 and
  `PAPER` uses 0.2, so each is an ablation of one and identical to the other. "with-noise" requires a `key`.
- "fixed-step": no step search; see `FixedStep`.
- "no-btv": no smoothness penalty (l2 = 0).

Published results at 28 x 28 (ResNet50, deletion / insertion): full .0929 / .7284, insertion only .1321 /
.7231, naive sum .2037 / .5103, no noise .0904 / .7108, fixed step .1052 / .7060, no BTV .0813 / .6825.

References:
  Khorram, Lawson, Fuxin. iGOS++: Integrated Gradient Optimized Saliency by Bilateral Perturbations. ACM CHIL
  2021.

Example:
  >>> import jax.numpy as jnp
  >>> from jaxplain import masks
  >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
  >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
  >>> masks.ABLATIONS["no-btv"](score, image, jnp.zeros((16, 16, 3)), size=8).importance.shape
  (8, 8)
"""


# ---------------------------------------------------------------------------------------------------------
# Initial masks


def diverse_init(
    size: Pair, grid: int, cell: tuple[int | Array, int | Array], value: float | Array = 0.5
) -> Array:
    """Return a mask of ones, lowered by `value` in one cell of a `grid` x `grid` partition: float32 [h, w].

    Starting from different cells leads to different explanations of an image. `cell` and `value` may be
    traced, so a `vmap` over cells compiles only once.

    References:
      Jiang, Khorram, Fuxin. Diverse Explanations for Object Detectors with Nesterov-Accelerated iGOS++. BMVC
      2023.

    Example:
      >>> diverse_init(4, grid=2, cell=(0, 1)).tolist()[0]
      [1.0, 1.0, 0.5, 0.5]
    """
    rows, cols = as_pair(size, "size")
    inside_row = jnp.arange(rows) * grid // rows == cell[0]
    inside_col = jnp.arange(cols) * grid // cols == cell[1]
    return 1 - jnp.asarray(value, jnp.float32) * (inside_row[:, None] & inside_col[None, :])


# ---------------------------------------------------------------------------------------------------------
# From options to the compiled engine


def _optimized(
    objective: Objective, score: Any, image: Array, baseline: Array | None, options: MaskOptions
) -> Explanation:
    """Check the options and run the compiled engine."""
    image = as_image(image)
    baselines = as_baselines(baseline, image)
    shape = as_grid(options.size, image.shape, "size", default=28)
    coefficients = _coefficients(options, max(shape))
    choices = EngineChoices(
        objective=objective,
        iterations=check_positive_int(options.iterations, "iterations"),
        search=check_choice(options.search, SEARCHES, "search"),
        rescue=bool(options.rescue),
        batch_size=check_batch_size(options.batch_size),
    )
    rule = paths.RULES[check_choice(options.rule, paths.RULES, "rule")]
    sigma = as_number(options.sigma, "sigma")
    check_where(lambda s: s > 0, sigma, f"sigma must be above 0, got {sigma}.")  # flat areas: 0 / 0
    arguments = _EngineArguments(
        score=scores.as_pytree(score),
        image=image,
        baselines=baselines,
        coefficients=coefficients,
        sigma=sigma,
        path=rule(check_positive_int(options.n_steps, "n_steps")),
        descent=_checked_descent(options.descent, choices.search),
        masks=_initial_masks(objective, options.init, shape),
        key=_needed_key(options.key, coefficients),
    )
    return _compiled_engine(choices, arguments)


class _EngineArguments(NamedTuple):
    """The traced inputs to a mask optimization."""

    score: Any
    image: Array  # [H, W, C]
    baselines: Array  # [K, H, W, C]
    coefficients: Coefficients
    sigma: Array  # []
    path: paths.Path
    descent: Descent
    masks: Array  # [M, h, w]
    key: Array | None


@partial(jax.jit, static_argnums=0)
def _compiled_engine(choices: EngineChoices, inputs: _EngineArguments) -> Explanation:
    edges = edge_weights(inputs.image, inputs.sigma)
    problem = Problem(inputs.score, inputs.image, inputs.baselines, edges, inputs.path, inputs.coefficients)
    return optimize_mask(choices, problem, inputs.descent, inputs.masks, inputs.key)


def _coefficients(options: MaskOptions, side: int) -> Coefficients:
    """Check the coefficients; their defaults depend on `side`, the mask's longer side."""
    l1 = (10.0 if side >= 224 else 1.0) if options.l1 is None else options.l1
    l2 = 20.0 * side / 224 if options.l2 is None else options.l2
    return Coefficients(
        l1=as_number(l1, "l1"),
        l2=as_number(l2, "l2"),
        noise=_unless_zero(options.noise, "noise"),
        score_weight=as_number(options.score_weight, "score_weight"),
        deletion=as_number(options.deletion, "deletion"),
        insertion=as_number(options.insertion, "insertion"),
        jitter=_unless_zero(options.jitter, "jitter"),
    )


def _unless_zero(amount: float | Array, name: str) -> Array | None:
    """Return the number, or None if it is a concrete 0, so that it costs nothing."""
    is_zero = not isinstance(amount, jax.core.Tracer) and np.all(np.asarray(amount) == 0)
    return None if is_zero else as_number(amount, name)


def _needed_key(key: Array | None, coefficients: Coefficients) -> Array | None:
    """Return the checked key if noise or jitter needs it, otherwise None."""
    for name in ("noise", "jitter"):
        if getattr(coefficients, name) is not None:
            return as_key(key, f"{name} (off with {name}=0)")
    return None


def _checked_descent(descent: Any, search: str) -> Descent:
    if not hasattr(descent, "move"):
        kinds = "a LineSearch, BestStep, FixedStep, Nesterov or Optax"
        raise TypeError(f"descent must be {kinds}, got {descent!r}.")
    if search == "gradient" and isinstance(descent, LineSearch | BestStep):
        raise ValueError(f"{type(descent).__name__} requires search='endpoint' or search='path'.")
    return descent


def _initial_masks(objective: Objective, init: Array | None, shape: tuple[int, int]) -> Array:
    if init is None:
        init = jnp.ones(shape, jnp.float32)
    if getattr(init, "shape", None) != shape:
        raise ValueError(f"init must be a mask of shape {shape}, got {getattr(init, 'shape', init)!r}.")
    check_finite(init, "init")
    check_where(lambda m: (m >= 0) & (m <= 1), init, "init must lie in 0..1, where 1 keeps a pixel.")
    return jnp.broadcast_to(jnp.asarray(init, jnp.float32), (objective.masks, *shape))
