"""iGOS++ with one of its parts left out or replaced, for tables that say what each part is worth."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Unpack, cast

from jax import Array

from jaxplain import scores
from jaxplain.masks.descent import FixedStep
from jaxplain.masks.engine import Heatmap
from jaxplain.masks.objective import Objective, Term
from jaxplain.masks.recipes import IGOS_PLUS, igos_pp
from jaxplain.masks.run import run_recipe
from jaxplain.masks.settings import Options

INSERTION_ONLY = replace(IGOS_PLUS, terms=(Term(0, insertion=True),))
DELETION_ONLY = replace(IGOS_PLUS, terms=(Term(0, insertion=False),))


def _with_objective(objective: Objective, **fixed: Any) -> Callable[..., Heatmap]:
    """iGOS++'s settings for another objective, but for some options that the caller's do not override."""

    def ablation(score: scores.Score, image: Array, baseline: Array, **options: Unpack[Options]) -> Heatmap:
        return run_recipe(objective, "igos++", score, image, baseline, cast(Options, {**options, **fixed}))

    return ablation


def _with_options(**fixed: Any) -> Callable[..., Heatmap]:
    """iGOS++ with some options that the caller's do not override."""

    def ablation(score: scores.Score, image: Array, baseline: Array, **options: Unpack[Options]) -> Heatmap:
        return igos_pp(score, image, baseline, **{**options, **fixed})

    return ablation


ABLATIONS: dict[str, Callable[..., Heatmap]] = {
    "insertion only": _with_objective(INSERTION_ONLY, search="path"),
    "deletion only": _with_objective(DELETION_ONLY),
    "naive sum": _with_objective(IGOS_PLUS),
    "no noise": _with_options(noise=0.0),
    "with noise": _with_options(noise=0.2),
    "fixed step": _with_options(descent=FixedStep()),
    "no BTV": _with_options(l2=0.0),
}
"""Name -> a function like `igos_pp`: the same arguments, settings and result, but for what the name says.

- "insertion only", "deletion only": one mask, one kind of score term, the bilateral penalty. The first
  measures its candidates along the path: at its end, where nothing is shown yet, no small step restores
  anything, and on 43 of 50 photos the mask stayed as it was.
- "naive sum": both kinds for one mask, the objective of iGOS+ with the settings of iGOS++.
- "no noise", "with noise": along the path (0 and 0.2). The default preset has none and the published one 0.2,
  so each is an ablation of one preset and the full method under the other. "with noise" needs a `key`.
- "fixed step": no search for a step, see `FixedStep`.
- "no BTV": without the smoothness penalty, l2 = 0.

What the name says wins over an option that says otherwise.

Published at 28 x 28 (ResNet50, deletion / insertion): full .0929 / .7284, insertion only .1321 / .7231, naive
sum .2037 / .5103, no noise .0904 / .7108, fixed step .1052 / .7060, no BTV .0813 / .6825.

References:
  Khorram, Lawson, Fuxin. iGOS++: Integrated Gradient Optimized Saliency by Bilateral Perturbations. ACM CHIL
  2021.

Example:
  >>> import jax.numpy as jnp
  >>> from jaxplain import masks
  >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
  >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
  >>> masks.ABLATIONS["no BTV"](score, image, jnp.zeros((16, 16, 3)), size=8).mask.shape
  (8, 8)
"""
