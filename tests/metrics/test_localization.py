"""Pointing games and box masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxplain import metrics

SHAPE = (40, 50)


def peak(row, col):
    zeros = np.zeros(SHAPE, np.float32)
    zeros[row, col] = 1
    return zeros


@pytest.mark.parametrize(
    ("row", "col", "hit"),
    [
        (10, 10, 1),  # on it
        (10, 4, 1),  # 6 left of it
        (25, 10, 0),  # 16 below the last row, 9
        (24, 10, 1),  # exactly 15
        (18, 31, 1),  # 9 and 12: 15 by Pythagoras
        (19, 31, 0),  # 10 and 12
    ],
)
def test_the_tolerance_is_a_circle_of_15_pixels(row, col, hit):
    mask = np.asarray(metrics.box_mask((5, 10, 10, 20), SHAPE)).copy()  # last row 9, last column 19
    mask[10, 10] = row == col
    assert float(metrics.pointing_game(peak(row, col), mask, 15.0)) == hit


def test_the_default_tolerance_grows_with_the_mask():
    """15 pixels at 224, 30 at 448."""
    for side in (224, 448):
        mask = np.zeros((side, side), bool)
        mask[0, 0] = True
        reach = 15 * side // 224
        for col, hit in ((reach, 1), (reach + 1, 0)):
            importance = jnp.zeros((side, side)).at[0, col].set(1.0)
            assert float(metrics.pointing_game(importance, mask)) == hit


@given(seed=st.integers(0, 200), tolerance=st.floats(0, 20))
def test_pointing_game_against_a_loop(seed, tolerance):
    rng = np.random.default_rng(seed)
    importance, mask = rng.uniform(size=(9, 7)).astype(np.float32), rng.uniform(size=(9, 7)) < 0.1
    row, col = np.unravel_index(importance.argmax(), importance.shape)
    distances = [np.hypot(i - row, j - col) for i, j in np.argwhere(mask)]
    found = float(metrics.pointing_game(jnp.asarray(importance), jnp.asarray(mask), tolerance))
    if not distances:
        assert np.isnan(found)
    elif abs(min(distances) - tolerance) > 1e-4:
        assert found == (min(distances) <= tolerance)


def test_ties_are_broken_in_reading_order():
    mask = metrics.box_mask((0, 0, 1, 1), SHAPE)
    assert float(metrics.pointing_game(jnp.ones(SHAPE), mask, 0)) == 1


def test_undefined_is_nan():
    mask = metrics.box_mask((0, 0, 2, 2), SHAPE)
    assert np.isnan(metrics.pointing_game(jnp.full(SHAPE, jnp.nan), mask))
    assert np.isnan(metrics.pointing_game(jnp.ones(SHAPE), jnp.zeros(SHAPE, bool)))
    assert np.isnan(metrics.energy_pointing_game(jnp.zeros(SHAPE), mask))
    assert np.isnan(metrics.energy_pointing_game(-jnp.ones(SHAPE), mask))
    assert np.isnan(metrics.energy_pointing_game(jnp.ones(SHAPE), jnp.zeros(SHAPE, bool)))


def test_energy_counts_positive_values_only():
    mask = metrics.box_mask((0, 0, 1, 2), (2, 2))
    importance = jnp.array([[3.0, -5.0], [1.0, 0.0]])
    assert float(metrics.energy_pointing_game(importance, mask)) == pytest.approx(0.75)
    assert float(metrics.energy_pointing_game(1e30 * importance, mask)) == pytest.approx(0.75)


def test_coarse_maps_are_upsampled():
    mask = metrics.box_mask((0, 0, 20, 25), SHAPE)
    coarse = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    assert float(metrics.pointing_game(coarse, mask, 0)) == 1
    assert 0.5 < float(metrics.energy_pointing_game(coarse, mask)) < 1


def test_rows_of_a_vmap_are_single_calls():
    boxes = jnp.array([[0, 0, 2, 2], [1, 1, 4, 3]])
    masks = jax.vmap(lambda box: metrics.box_mask(box, (5, 6)))(boxes)
    assert masks.sum((1, 2)).tolist() == [4, 6]
    maps = np.random.default_rng(0).uniform(size=(2, 5, 6)).astype(np.float32)
    together = jax.vmap(metrics.energy_pointing_game)(maps, masks)
    alone = [metrics.energy_pointing_game(*pair) for pair in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_bad_arguments_are_refused():
    mask = metrics.box_mask((0, 0, 2, 2), SHAPE)
    with pytest.raises(TypeError, match="booleans"):
        metrics.pointing_game(jnp.ones(SHAPE), mask.astype(jnp.float32))
    with pytest.raises(ValueError, match="no larger than the mask"):
        metrics.pointing_game(jnp.ones((41, 50)), mask)
    with pytest.raises(ValueError, match="must not be empty"):
        metrics.box_mask((2, 0, 2, 5), SHAPE)
    with pytest.raises(ValueError, match="four numbers"):
        metrics.box_mask((2, 0, 2), SHAPE)
    with pytest.raises(ValueError, match="rows, columns"):
        metrics.box_mask((0, 0, 2, 2), (4, 0))
