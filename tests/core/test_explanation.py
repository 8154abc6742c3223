"""The result of every method: status, resizing, drawing, and its passage through jit and vmap."""

import io

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from PIL import Image

from jaxplain.explanation import Explanation, Status, finished

matplotlib.use("Agg")
MAP = jnp.array([[0.0, 1.0], [2.0, 3.0]])
ONE = finished(MAP, jnp.ones(3), 7)


def test_a_finished_explanation():
    assert (int(ONE.status), int(ONE.evaluations), ONE.details) == (Status.OK, 7, ())
    assert ONE.status.dtype == ONE.evaluations.dtype == jnp.int32
    assert finished(MAP, jnp.ones(()), -1, details=(MAP,)).details == (MAP,)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_sets_the_status(bad):
    for found in (finished(MAP.at[1, 0].set(bad), jnp.ones(3), 1), finished(MAP, jnp.array([1.0, bad]), 1)):
        assert int(found.status) == Status.NOT_FINITE
    status = jnp.int32(Status.NOT_MOVED)
    assert int(finished(MAP, jnp.float32(bad), 1, status=status).status) == Status.NOT_FINITE
    assert int(finished(MAP, jnp.ones(2), 1, status=status).status) == Status.NOT_MOVED


def test_every_status_has_a_message():
    messages = [status.message for status in Status]
    assert len(set(messages)) == len(Status)
    assert all(message and not message.endswith(".") for message in messages)
    assert Status.OK.message == "ok"
    assert "NaN" in Status.NOT_FINITE.message
    assert [int(status) for status in Status] == list(range(len(Status)))  # numbers in saved results stay


def test_saliency_is_the_importance_at_another_size():
    assert ONE.saliency(2, 2) is MAP
    np.testing.assert_allclose(ONE.saliency(3, 3), [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]])
    np.testing.assert_allclose(ONE.saliency(1, 2), [[1, 2]])  # the mean over cells


def test_explanations_pass_through_jit_and_vmap():
    maps = jnp.stack([MAP, MAP.at[0, 0].set(jnp.nan)])
    many = jax.jit(jax.vmap(lambda importance: finished(importance, jnp.ones(()), 2)))(maps)
    assert isinstance(many, Explanation)
    assert many.status.tolist() == [Status.OK, Status.NOT_FINITE]
    assert many.evaluations.tolist() == [2, 2]


def test_plot_draws_the_map_over_its_image():
    photo = np.full((8, 6, 3), 200, np.uint8)
    alone, over = ONE.plot(), ONE.plot(photo, alpha=0.25)
    assert alone.images[0].get_array().shape == (2, 2, 3)
    drawn = over.images[0].get_array()
    assert drawn.shape == (8, 6, 3)
    assert drawn[0, 0].tolist() == [150, 150, 182]  # three quarters of the photo and a quarter of dark blue
    assert over.get_title() == ""
    assert ONE.plot(jnp.zeros((8, 6, 1)), ax=over) is over


def test_plot_shows_a_status_that_is_not_ok():
    broken = finished(MAP.at[0, 0].set(jnp.nan), jnp.ones(()), 1)
    assert broken.plot().get_title() == "not finite"


def test_only_one_explanation_is_drawn_at_a_time():
    many = jax.vmap(lambda importance: finished(importance, jnp.ones(()), 1))(jnp.stack([MAP, MAP]))
    with pytest.raises(
        ValueError, match=r"one explanation.*shape \(2, 2, 2\); select one with jax.tree_util"
    ):
        many.plot()
    assert many._repr_png_() is None
    assert jax.tree.map(lambda leaf: leaf[0], many)._repr_png_() is not None


def test_a_notebook_shows_a_png():
    picture = np.asarray(Image.open(io.BytesIO(ONE._repr_png_())))
    assert picture.shape == (224, 224, 3)
    assert picture[0, 0].tolist() != picture[-1, -1].tolist()


def test_a_traced_explanation_shows_nothing():
    shown = []

    @jax.jit
    def run(importance):
        found = finished(importance, jnp.ones(()), 1)
        shown.append(found._repr_png_())
        return found

    run(MAP)
    assert shown == [None]
