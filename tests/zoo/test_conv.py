"""Every lowering of a convolution gives the same values and derivatives; so does the max pool."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxplain.zoo.conv import (
    _depthwise_native,
    _depthwise_shifted,
    _depthwise_shifted_backward,
    _native,
    _patch_product,
    ceil_padding,
    conv2d,
    depthwise_conv2d,
    max_pool,
    same_padding,
    sum_of,
)

# Every example compiles its own programs.
FEW = settings(max_examples=4)
MANY = settings(max_examples=25)


@st.composite
def problems(draw, sides=7):
    """(rows and columns, kernel side, stride, padding) with an output of at least one pixel."""
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    side, stride = draw(st.integers(1, sides)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        return shape, side, stride, same_padding(shape, side, stride)
    padding = []
    for size in shape:
        before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        padding.append((before, max(after, side - size - before)))
    return shape, side, stride, tuple(padding)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_close(actual, expected):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def value_and_vjp(function, images, kernel, grad):
    value, pull = jax.vjp(function, images, kernel)
    return value, *pull(grad)


def depthwise_lowerings_agree(problem):
    shape, side, stride, padding = problem
    images, kernel = normal(0, 2, *shape, 3), normal(1, side, side, 3)
    options = {"stride": stride, "padding": padding}
    native = functools.partial(_depthwise_native, **options)
    grad = normal(2, *jax.eval_shape(native, images, kernel).shape)

    @jax.jit
    def all_ways(images, kernel, grad):
        by_hand = _depthwise_shifted_backward(images, kernel, grad, **options)
        shifted = functools.partial(_depthwise_shifted, **options)
        return (
            value_and_vjp(native, images, kernel, grad),
            value_and_vjp(shifted, images, kernel, grad),
            (shifted(images, kernel), *by_hand),
        )

    expected, shifted, by_hand = all_ways(images, kernel, grad)
    assert_close(shifted, expected)
    assert_close(by_hand, expected)


test_depthwise_lowerings_agree = FEW(given(problems())(depthwise_lowerings_agree))
test_depthwise_lowerings_agree_widely = pytest.mark.slow(MANY(given(problems())(depthwise_lowerings_agree)))


def dense_lowerings_agree(problem):
    shape, side, stride, padding = problem
    images, kernel = normal(0, 2, *shape, 3), normal(1, side, side, 3, 4)
    native = functools.partial(_native, stride=stride, padding=padding)
    product = functools.partial(_patch_product, stride=stride, padding=padding)
    grad = normal(2, *jax.eval_shape(native, images, kernel).shape)

    @jax.jit
    def both(images, kernel, grad):
        return value_and_vjp(native, images, kernel, grad), value_and_vjp(product, images, kernel, grad)

    expected, actual = both(images, kernel, grad)
    assert_close(actual, expected)


test_dense_lowerings_agree = FEW(given(problems())(dense_lowerings_agree))
test_dense_lowerings_agree_widely = pytest.mark.slow(MANY(given(problems())(dense_lowerings_agree)))


def loop_depthwise(images, kernel, stride, padding):
    """Depthwise convolution by its definition."""
    padded = np.pad(images, ((0, 0), *padding, (0, 0)))
    side = len(kernel)
    rows, cols = ((size - side) // stride + 1 for size in padded.shape[1:3])
    out = np.zeros((len(images), rows, cols, images.shape[3]), np.float32)
    for row in range(rows):
        for col in range(cols):
            window = padded[:, row * stride : row * stride + side, col * stride : col * stride + side]
            out[:, row, col] = (window * kernel).sum((1, 2))
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 3))])
def test_depthwise_is_the_definition(stride, padding):
    images, kernel = normal(0, 2, 7, 9, 3), normal(1, 3, 3, 3)
    expected = loop_depthwise(images, kernel, stride, padding)
    assert_close(depthwise_conv2d(images, kernel, stride, padding), expected)


def test_depthwise_under_jit_vmap_and_grad():
    images, kernels = normal(0, 4, 2, 9, 8, 3), normal(1, 4, 3, 3, 3)
    padding = same_padding((9, 8), 3, 2)

    def ours(images, kernel):
        return depthwise_conv2d(images, kernel, 2, padding)

    def native(images, kernel):
        return _depthwise_native(images, kernel, stride=2, padding=padding)

    def everything(function):
        def loss(images, kernel):
            return jnp.sum(jnp.sin(function(images, kernel)))

        return jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1))))(images, kernels)

    assert_close(everything(ours), everything(native))
    shared = jax.jit(jax.vmap(ours, in_axes=(0, None)))(images, kernels[0])
    assert_close(shared, jnp.stack([native(image, kernels[0]) for image in images]))


def test_one_exported_program_serves_every_platform():
    images, kernel = normal(0, 1, 9, 9, 3), normal(1, 3, 3, 3)
    loss = jax.jit(
        jax.grad(lambda images: jnp.sum(jnp.sin(depthwise_conv2d(images, kernel, 2, ((1, 1),) * 2))))
    )
    exported = jax.export.export(loss, platforms=("cpu", "cuda", "tpu"))(images)
    assert "convolution" in exported.mlir_module()
    assert_close(exported.call(images), loss(images))


@pytest.mark.parametrize(
    ("channels", "side", "stride", "padding"),
    [(3, 1, 2, 0), (8, 1, 2, 0), (3, 1, 2, 1), (3, 7, 2, 3), (8, 3, 2, 1)],
)
def test_conv2d_agrees_with_the_native_convolution(channels, side, stride, padding):
    images, kernel = normal(0, 2, 9, 8, channels), normal(1, side, side, channels, 5)
    padding = ((padding, padding), (padding, padding))
    expected = _native(images, kernel, stride=stride, padding=padding)
    assert_close(conv2d(images, kernel, stride=stride, padding=padding), expected)


def test_same_padding_is_tensorflows():
    for size in range(1, 30):
        for side in range(1, 8):
            for stride in range(1, 4):
                [expected] = lax.padtype_to_pads([size], [side], [stride], "SAME")
                assert same_padding((size, size), side, stride) == (expected, expected)


def test_ceil_padding_completes_the_last_window():
    for side in range(1, 6):
        for size in range(side, 30):
            for stride in range(1, side + 1):
                (before, after), _ = ceil_padding((size, size), side, stride)
                assert before == 0
                windows = math.ceil((size - side) / stride) + 1
                assert windows == (size + after - side) // stride + 1
                assert (size + after - side) % stride == 0


def max_pool_agrees_with_reduce_window(problem, with_ties):
    shape, side, stride, padding = problem
    # Padding that covers a whole window has no maximum.
    padding = tuple((min(before, side - 1), after) for before, after in padding)
    images = normal(0, 2, *shape, 3)
    images = np.round(images) if with_ties else images

    def reference(images):
        window, strides = (1, side, side, 1), (1, stride, stride, 1)
        pads = ((0, 0), *padding, (0, 0))
        return lax.reduce_window(images, -jnp.inf, lax.max, window, strides, pads)

    def ours(images):
        return max_pool(images, side, stride=stride, padding=padding)

    grad = normal(1, *jax.eval_shape(reference, images).shape)

    @jax.jit
    def both(images, grad):
        values = [jax.vjp(function, images) for function in (reference, ours)]
        return [(value, pull(grad)) for value, pull in values]

    expected, actual = both(images, grad)
    assert_close(actual, expected)


test_max_pool_agrees_with_reduce_window = FEW(
    given(problems(sides=4), st.booleans())(max_pool_agrees_with_reduce_window)
)
test_max_pool_agrees_with_reduce_window_widely = pytest.mark.slow(
    MANY(given(problems(sides=4), st.booleans())(max_pool_agrees_with_reduce_window))
)


def test_max_pool_spreads_nan():
    images = np.zeros((1, 4, 4, 1), np.float32)
    images[0, 1, 0] = np.nan
    pooled = max_pool(images, 2, stride=2)
    assert np.isnan(pooled[0, 0, 0, 0])
    assert np.isfinite(pooled).sum() == 3


def test_sum_of_starts_from_nothing():
    assert sum_of(iter([np.float32(1), np.float32(2)])) == 3
