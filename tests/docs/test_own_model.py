"""The page on users' own models: its code runs as written, and each of its scores can be explained."""

import os
import re
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is first imported

import jaxplain as jx
from jaxplain.explanation import Status

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own_model.md"
SECTIONS = [
    (title, "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)))
    for title, text in re.findall(
        r"^##+ (.*?)\n(.*?)(?=^##+ |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
]
WITH_CODE = [title for title, code in SECTIONS if code]


@cache
def run(until):
    """Run the page's code up to a section; the others' PyTorch is skipped. Return all its names."""
    names = {}
    for title, code in SECTIONS:
        if title == "PyTorch" != until:
            continue
        with jax.numpy_rank_promotion("allow"):
            exec(compile(code, title, "exec"), names)
        if title == until:
            return names
    raise AssertionError(f"no section {until!r}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "title", ["A binary classifier with one logit", "Embeddings: zero-shot classes and retrieval"]
)
def test_all_sections_up_to_this_one_run(title):
    names = run(title)
    for name in {"positive", "negative", "score"} & set(names):
        with jax.numpy_rank_promotion("allow"):
            found = jx.attributions.gradient(names[name], names["image"])
        assert Status(int(found.status)) is Status.OK
        assert np.ptp(found.importance) > 0
    images = names["image"][None]
    np.testing.assert_allclose(names["negative"](images), 1 - names["positive"](images), rtol=1e-4)
    assert len(names["explain"].maps) == 2  # one per epoch
    assert np.abs(names["explain"].maps[1] - names["explain"].maps[0]).max() > 0


@pytest.mark.parametrize("title", ["Regression", "Segmentation", "Detection", "Several labels at once"])
def test_each_score_can_be_explained(title):
    names = dict(run("Scores"))
    exec(dict(SECTIONS)[title], names)
    with jax.numpy_rank_promotion("allow"):
        found = jx.attributions.gradient(names["score"], names["image"])
        values = names["score"](names["image"][None].repeat(3, 0))
    assert values.shape == (3,)
    assert Status(int(found.status)) is Status.OK
    assert np.ptp(found.importance) > 0


@pytest.mark.slow
def test_the_example_with_pytorch_runs():
    pytest.importorskip("torch")
    assert run("PyTorch")["explanation"].importance.shape == (8, 8)


def test_the_page_has_every_kind_of_model():
    assert {"Segmentation", "Detection", "Regression", "PyTorch", "Keras 3", "Flax linen"} <= set(WITH_CODE)
