"""What a comparison measures on each map, and which direction is good."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain import metrics

Extra = Literal["", "forgetful", "other_class"]


class Evidence(NamedTuple):
    """What is known of one map; the measures are functions of it."""

    saliency: Array  # [h, w], at the size that is measured
    curves: metrics.Curves
    confidence: metrics.Confidence
    forgetful: Array | None = None  # [h, w], the map when the classifier's parameters are shuffled
    other_class: Array | None = None  # [h, w], the map of another class


class Measure(NamedTuple):
    """One column of the table."""

    of: Callable[[Evidence], Array]  # -> []
    better: Literal["low", "high"]
    about: str
    needs: Extra = ""  # a further explanation of the same photo, which takes as long again


def _drop(seen: Evidence) -> Array:
    return metrics.average_drop(seen.confidence.before[None], seen.confidence.after[None])


def _increase(seen: Evidence) -> Array:
    return metrics.increase_in_confidence(seen.confidence.before[None], seen.confidence.after[None])


def _rank_of_forgetful(seen: Evidence) -> Array:
    assert seen.forgetful is not None
    return _likeness(seen.saliency, seen.forgetful)


def _rank_of_other(seen: Evidence) -> Array:
    assert seen.other_class is not None
    return _likeness(seen.saliency, seen.other_class)


def _likeness(saliency: Array, other: Array) -> Array:
    """|rank correlation|; 0 where the other map is the same everywhere.

    A mask method that finds nothing to explain in a network that has forgotten its task, or in a class of no
    probability, leaves its mask as it was: the map is gone, which is what the check asks for.
    """
    rank = jnp.abs(metrics.rank_correlation(saliency, other))
    return jnp.where(jnp.ptp(other) == 0, 0.0, rank)


MEASURES: dict[str, Measure] = {
    "deletion": Measure(
        lambda seen: seen.curves.deletion_area,
        "low",
        "area under the probability as the most important cells are replaced by the baseline",
    ),
    "insertion": Measure(
        lambda seen: seen.curves.insertion_area,
        "high",
        "area under the probability as the most important cells are restored on the baseline",
    ),
    "rise": Measure(
        lambda seen: metrics.adversarial_rise(seen.curves.fraction, seen.curves.insertion),
        "low",
        "share of the cells after which the insertion curve is at half of its end; late if adversarial",
    ),
    "average_drop": Measure(
        _drop, "low", "percent of the probability lost when only the map's part of the photo is shown"
    ),
    "increase": Measure(
        _increase, "high", "percent of the photos that score higher with only the map's part shown"
    ),
    "gini": Measure(
        lambda seen: metrics.gini(seen.saliency), "high", "sparseness of the map: 0 even, 1 a single cell"
    ),
    "parameter_randomization": Measure(
        _rank_of_forgetful,
        "low",
        "sanity check: |rank correlation| with the map after all parameters are shuffled; 0 if that is flat",
        "forgetful",
    ),
    "target_randomization": Measure(
        _rank_of_other,
        "low",
        "sanity check: |rank correlation| with the map of another class; 0 if that is flat",
        "other_class",
    ),
}
DEFAULT_MEASURES = ("deletion", "insertion", "rise", "average_drop", "increase", "gini")
