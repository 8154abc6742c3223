"""The measures used in comparisons: how each is computed from a map, and whether high or low is better."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain import metrics

Extra = Literal["", "randomized", "other_class"]


class MeasuredMap(NamedTuple):
    """A map and the data from which its measures are computed."""

    importance: Array  # [h, w], at the size at which it is measured
    curves: metrics.Curves
    confidence: metrics.Confidence | None
    randomized: Array | None = None  # [h, w], the map for the classifier with shuffled parameters
    other_class: Array | None = None  # [h, w], the map for another class


class Measure(NamedTuple):
    """One column of the comparison table."""

    compute: Callable[[MeasuredMap], Array]  # -> []
    better: Literal["low", "high"]
    about: str
    needs: Extra = ""  # an additional map of the same photo, which doubles the run time


def _drop(measured: MeasuredMap) -> Array:
    assert measured.confidence is not None
    return metrics.average_drop(measured.confidence.before[None], measured.confidence.after[None])


def _increase(measured: MeasuredMap) -> Array:
    assert measured.confidence is not None
    return metrics.increase_in_confidence(measured.confidence.before[None], measured.confidence.after[None])


def _similarity(importance: Array, other: Array | None) -> Array:
    """Return the absolute rank correlation of two maps, or 0 if the other map is constant.

    If a mask method finds nothing to explain, in a randomized network or for a class of near-zero
    probability, it leaves its mask unchanged. The map is then constant, which passes the check.
    """
    assert other is not None
    rank = jnp.abs(metrics.rank_correlation(importance, other))
    return jnp.where(jnp.ptp(other) == 0, 0.0, rank)


MEASURES: dict[str, Measure] = {
    "deletion": Measure(
        lambda measured: measured.curves.deletion_auc,
        "low",
        "area under the probability as the most important cells are replaced by the baseline",
    ),
    "insertion": Measure(
        lambda measured: measured.curves.insertion_auc,
        "high",
        "area under the probability as the most important cells are restored on the baseline",
    ),
    "rise": Measure(
        lambda measured: metrics.adversarial_rise(measured.curves.fraction, measured.curves.insertion),
        "low",
        "share of the cells at which the insertion curve reaches half its final value; high if adversarial",
    ),
    "average_drop": Measure(
        _drop, "low", "percentage of the probability lost when only the map's part of the photo is shown"
    ),
    "increase": Measure(
        _increase, "high", "percentage of photos that score higher with only the map's part shown"
    ),
    "gini": Measure(
        lambda measured: metrics.gini(measured.importance),
        "high",
        "sparsity of the map: 0 uniform, 1 a single cell",
    ),
    "parameter_randomization": Measure(
        lambda measured: _similarity(measured.importance, measured.randomized),
        "low",
        "sanity check: |rank correlation| with the map after all parameters are shuffled; 0 if constant",
        "randomized",
    ),
    "target_randomization": Measure(
        lambda measured: _similarity(measured.importance, measured.other_class),
        "low",
        "sanity check: |rank correlation| with the map of another class; 0 if constant",
        "other_class",
    ),
}
DEFAULT_MEASURES = ("deletion", "insertion", "rise", "average_drop", "increase", "gini")
