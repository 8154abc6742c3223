"""Memory of a whole mask optimisation; see support.memory.

Bound: 1.75 x the temporary memory of one call + 6 float32 pictures for every image explained at once.
Measured on XLA's CPU backend: 1.2 x for batch size 1, 1.3 x to 1.62 x for 4, and 4 pictures per image.
"""

from functools import partial

import jax
import pytest
from support.memory import PICTURE, SCORE, one_call, pictures, temporary_bytes

import jaxplain as jx
from jaxplain.masks import BestStep, LineSearch, extremal_perturbation


def explain(score, image, baseline, key, **options):
    plain = {"size": 14, "iterations": 3, "n_steps": 4, "noise": 0.2, "search": "path"}
    return jx.igos_pp(score, image, baseline, key=key, **(plain | {"descent": LineSearch()} | options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "images", "options"),
    [
        (4, 1, {"search": "endpoint"}),
        (1, 1, {"iterations": 50, "n_steps": 60, "descent": BestStep(candidates=20)}),
        (1, 8, {}),
    ],
    ids=str,
)
def test_a_run_needs_one_call_and_a_few_pictures(batch_size, images, options):
    run, arguments = partial(explain, batch_size=batch_size, **options), (pictures(), pictures())
    key = jax.random.key(0)
    if images > 1:
        run = jax.vmap(run, in_axes=(None, 0, 0, 0))
        arguments, key = (pictures(images), pictures(images)), jax.random.split(key, images)
    needed = temporary_bytes(run, SCORE, *arguments, key)
    assert needed <= 1.75 * one_call(batch_size) + 6 * PICTURE * images


@pytest.mark.slow
def test_areas_need_one_call_and_a_few_pictures():
    """Whatever the iterations and areas. An area's own share is its neighbourhoods."""
    run = partial(extremal_perturbation, areas=(0.05, 0.1, 0.2, 0.4), size=14, iterations=50, batch_size=1)
    needed = temporary_bytes(run, SCORE, pictures(), pictures())
    assert needed <= 1.75 * one_call(1) + 6 * PICTURE * 4
