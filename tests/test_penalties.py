"""Penalties against loops, and what happens at their kinks and on masks of one row."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxplain.masks.penalties import (
    bilateral_total_variation,
    edge_weights,
    l1,
    magnitude,
    total_variation,
)

SIDES = st.integers(1, 5)
POWERS = [1.0, 2.0, 3.0]


def uniform(seed, *shape):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


@jax.jit
def all_penalties(mask, image, sigma):
    """Size, and both kinds of roughness for each power."""
    edges = edge_weights(image, sigma)
    plain = [total_variation(mask, power) for power in POWERS]
    return l1(mask), plain, [bilateral_total_variation(mask, edges, power) for power in POWERS]


@settings(max_examples=15)
@given(
    h=SIDES,
    w=SIDES,
    rows=st.integers(5, 8),
    cols=st.integers(5, 8),
    channels=st.integers(1, 3),
    sigma=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_penalties_are_the_loops(h, w, rows, cols, channels, sigma, seed):
    mask, image = uniform(seed, h, w), 0.3 * uniform(seed + 1, rows, cols, channels)
    size, plain, bilateral = all_penalties(mask, image, sigma)
    mask, image = mask.astype(np.float64), image.astype(np.float64)
    assert float(size) == pytest.approx(oracles.l1(mask), rel=1e-5)
    for power, one, other in zip(POWERS, plain, bilateral, strict=True):
        assert float(one) == pytest.approx(oracles.total_variation(mask, power), rel=1e-4)
        expected = oracles.bilateral_total_variation(mask, image, sigma, power)
        assert float(other) == pytest.approx(expected, rel=1e-4)


def test_published_sigma_is_the_default():
    image = 0.3 * uniform(0, 6, 7, 3)
    for one, other in zip(edge_weights(image), edge_weights(image, 0.01), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_flat_image_counts_its_edges_in_full_and_a_sharp_edge_not_at_all():
    mask = jnp.asarray(uniform(0, 6, 6))  # of image resolution, so both halves see the same mask
    flat = edge_weights(jnp.zeros((6, 6, 3)))
    assert float(bilateral_total_variation(mask, flat)) == pytest.approx(float(total_variation(mask)))
    step = jnp.zeros((6, 6)).at[:, 3:].set(1.0)  # the mask's only edge lies on the image's
    edged = edge_weights(jnp.broadcast_to(step[..., None], (6, 6, 3)))
    assert float(bilateral_total_variation(step, edged)) == pytest.approx(
        0.5 * float(total_variation(step)), rel=1e-6
    )


def test_edges_are_symmetric():
    """The published program treats the two axes differently; here a turned image is a turned result."""
    mask, image = jnp.asarray(uniform(0, 4, 4)), jnp.asarray(0.3 * uniform(1, 8, 8, 3))
    turned = bilateral_total_variation(mask.T, edge_weights(image.swapaxes(0, 1)))
    assert float(turned) == pytest.approx(float(bilateral_total_variation(mask, edge_weights(image))))


def test_means_do_not_depend_on_resolution():
    for size in (4, 40):
        assert float(l1(jnp.full((size, size), 0.25))) == pytest.approx(0.75)
        checkers = (jnp.indices((size, size)).sum(0) % 2).astype(jnp.float32)
        assert float(total_variation(checkers)) == pytest.approx(2.0)


# ------------------------------------------------------------------------------------------------ kinks


def test_subgradient_of_the_size_at_one_is_zero():
    """Every mask starts at 1. JAX's own derivative of |x| at 0 is 1 and would pull every cell down."""
    np.testing.assert_array_equal(jax.grad(l1)(jnp.ones((3, 4))), 0.0)
    mixed = jnp.ones((2, 2)).at[0, 0].set(0.5).at[1, 1].set(1.5)
    np.testing.assert_allclose(jax.grad(l1)(mixed), [[-0.25, 0.0], [0.0, 0.25]])
    assert float(jax.grad(magnitude)(0.0)) == 0.0
    assert float(jax.grad(jnp.abs)(0.0)) == 1.0  # why it is needed


@pytest.mark.parametrize("power", POWERS)
def test_a_flat_mask_has_no_slope(power):
    image = jnp.asarray(uniform(0, 7, 6, 3))
    flat = jnp.full((3, 4), 0.5)
    slope = jax.jit(jax.grad(partial(total_variation, power=power)))(flat)
    np.testing.assert_array_equal(slope, 0.0)
    rough = partial(bilateral_total_variation, edges=edge_weights(image), power=power)
    slope = jax.jit(jax.grad(rough))(flat)
    np.testing.assert_allclose(slope, 0.0, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_masks_of_one_row_or_column(shape):
    """An axis without neighbours counts 0, value and slope; a mean over nothing would be NaN."""
    mask = jnp.asarray(uniform(0, *shape))
    for image in (uniform(1, 6, 7, 3), uniform(1, *shape, 3)):
        edges = edge_weights(jnp.asarray(image))

        def all_of(mask, edges=edges):
            return total_variation(mask) + bilateral_total_variation(mask, edges) + l1(mask)

        value, slope = jax.jit(jax.value_and_grad(all_of))(mask)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    assert float(total_variation(jnp.ones((1, 1)))) == 0.0


def test_penalties_pass_through_vmap():
    masks, image = jnp.asarray(uniform(0, 3, 4, 5)), jnp.asarray(uniform(1, 8, 9, 3))
    edges = edge_weights(image)
    both = jax.jit(lambda mask: bilateral_total_variation(mask, edges) + l1(mask))
    found = jax.vmap(both)(masks)
    expected = [float(both(mask)) for mask in masks]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
