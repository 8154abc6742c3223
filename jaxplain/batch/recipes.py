"""What `jaxplain batch` can run on every image: methods of comparisons, and the search of attention graphs.

Each is a frozen dataclass that is an `Explain`, so that a run records every field and refuses to go on with
others.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import sag
from jaxplain.checks import check_choice, check_positive_int
from jaxplain.compare.methods import METHODS
from jaxplain.compare.program import explain_with, resizing_matrix, takes
from jaxplain.masks import Status
from jaxplain.metrics import insertion_deletion
from jaxplain.perturb import BASELINES, baseline
from jaxplain.scores import class_score

SAG = "sag"
CHOICES = (*METHODS, SAG)


class Found(NamedTuple):
    """What is kept of an image that a method made a map of."""

    saliency: Array  # float32 [h, w] at the method's own resolution, high = important
    status: Array  # int32 [], a `jaxplain.Status`
    evaluations: Array  # int32 [], images scored by the model; -1 where the method does not say
    deletion_area: Array  # float32 []
    insertion_area: Array  # float32 []


@dataclass(frozen=True)
class MapRecipe:
    """A method of `jaxplain.compare.METHODS`, with deletion and insertion of its map at `size`.

    Raises:
      ValueError, TypeError: an unknown name (says which come nearest) or a number that cannot be.
    """

    method: str = "igos++"
    size: int = 28
    baseline: str = "blur"
    curve_steps: int = 50

    def __post_init__(self) -> None:
        check_choice(self.method, METHODS, "method")
        check_choice(self.baseline, BASELINES, "baseline")
        check_positive_int(self.size, "size")
        check_positive_int(self.curve_steps, "curve_steps")

    def __call__(self, model: Any, image: Array, target: Array, key: Array) -> Found:
        """Explain one image."""
        method = METHODS[self.method]
        background, key = _background(self.baseline, model, image, key)
        given = self.size if takes(method, "size") else None
        found = explain_with(method, given, model, image, background, target, key)
        rows, cols = (jnp.float32(resizing_matrix(side, self.size)) for side in found.saliency.shape)
        measured = jnp.matmul(jnp.matmul(rows, found.saliency), cols.T)
        curves = insertion_deletion(
            class_score(model, target), image, background, measured, steps=self.curve_steps
        )
        fine = (found.status == Status.OK) & (jnp.ptp(measured) > 0)
        areas = (jnp.where(fine, area, jnp.nan) for area in (curves.deletion_area, curves.insertion_area))
        return Found(*found, *areas)


@dataclass(frozen=True)
class SagRecipe:
    """The beam search of an attention graph, as `jaxplain sag` does it.

    Raises:
      ValueError, TypeError: an unknown name (says which come nearest) or a number that cannot be.
    """

    size: int = 7  # rows and columns of patches
    baseline: str = "blur"

    def __post_init__(self) -> None:
        check_choice(self.baseline, BASELINES, "baseline")
        check_positive_int(self.size, "size")

    def __call__(self, model: Any, image: Array, target: Array, key: Array) -> sag.SufficientSets:
        """Search one image."""
        score = class_score(model, target)
        background, _ = _background(self.baseline, model, image, key)
        proposal = sag.proposal_map(score, image, background, grid=self.size)
        return sag.search(score, image, background, grid=self.size, proposal=proposal)


def _background(name: str, model: Any, image: Array, key: Array) -> tuple[Array, Array]:
    """The baseline by name, and what is left of the key."""
    baseline_key, rest = jax.random.split(key)
    return baseline(name, image, normalize=model.normalize, key=baseline_key), rest


def make_recipe(method: str, *, size: int | None = None, baseline: str = "blur") -> MapRecipe | SagRecipe:
    """A method by name; size is None for the usual one, 28 for maps and 7 for patches.

    Raises:
      ValueError, TypeError: an unknown name (says which come nearest) or a size that cannot be.
    """
    check_choice(method, CHOICES, "method")
    sizes = {} if size is None else {"size": size}
    return (
        SagRecipe(baseline=baseline, **sizes)
        if method == SAG
        else MapRecipe(method, baseline=baseline, **sizes)
    )
