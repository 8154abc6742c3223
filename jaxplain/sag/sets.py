"""What a search for explanations returns."""

from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import jax
import numpy as np
from jax import Array


class Status(IntEnum):
    """How a search ended; of several, the first that applies."""

    OK = 0
    NOT_FINITE = 1
    LOW_SCORE = 2
    BASELINE_SUFFICIENT = 3
    BUDGET_SPENT = 4
    BUFFER_FULL = 5
    NONE_FOUND = 6

    @property
    def message(self) -> str:
        """What it means, for people."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OK: "ok",
    Status.NOT_FINITE: "the score is NaN or infinite on the image or on some patch set; check the model and "
    "its input",
    Status.LOW_SCORE: "the score of the whole image is about zero, so there is nothing to explain: choose "
    "another target",
    Status.BASELINE_SUFFICIENT: "the baseline alone already reaches the threshold, so no patch is needed: "
    "choose another baseline or target",
    Status.BUDGET_SPENT: "the budget of model evaluations was spent before the search ended, so there may be "
    "more explanations: raise max_evaluations",
    Status.BUFFER_FULL: "max_roots explanations were found, and there may be more: raise max_roots",
    Status.NONE_FOUND: "no sufficient set was found: raise max_size, beam_width or candidates, lower the "
    "threshold, or let the search propose all patches (proposal=None)",
}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "sets",
        "scores",
        "relative",
        "sizes",
        "valid",
        "image_score",
        "baseline_score",
        "threshold",
        "levels",
        "evaluations",
        "status",
    ],
    meta_fields=["grid"],
)
@dataclass(frozen=True)
class SufficientSets:
    """Minimal sufficient explanations of one image: R rows, the found ones first, P patches.

    Found sets are ordered by size, then by falling score. Every one is sufficient, no single patch can be
    removed from it, and no two are the same.
    """

    sets: Array  # bool [R, P]
    scores: Array  # [R], NaN where not valid
    relative: Array  # [R], score / score of the image
    sizes: Array  # int32 [R], number of patches
    valid: Array  # bool [R], which rows hold an explanation
    image_score: Array  # []
    baseline_score: Array  # []
    threshold: Array  # [], share of the image's score that suffices
    levels: Array  # int32 [], largest set size that was tried
    evaluations: Array  # int32 [], sets scored by the model, image and baseline included; all different
    status: Array  # int32 [], a Status
    grid: tuple[int, int]  # rows, columns of patches; static

    def __len__(self) -> int:
        """Number of explanations found; of one image, outside of compiled functions."""
        return int(np.sum(self.valid))
