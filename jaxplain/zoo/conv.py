"""Convolutions with one lowering per platform, chosen at compile time.

XLA's CPU backend runs grouped convolutions 10 to 90 times slower than the same sum written as shifted
multiply-adds, and the first layer's convolution (3 input channels) slower than a matrix product over its
patches. On GPU and TPU the native convolutions are faster. `jax.lax.platform_dependent` keeps both in one
function; tests check that values and derivatives are equal.

In shapes, N is the batch, H and W the rows and columns, C and D channels, and k the kernel side.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros added (before, after) the rows and (before, after) the columns."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PATCH_CHANNELS = 4  # up to this many input channels, a convolution is a matrix product over patches


def same_padding(shape: tuple[int, int], kernel: int, stride: int) -> Padding:
    """Return TensorFlow's "same" padding: output size ceil(n / stride), with any odd zero at the end."""

    def one_axis(size: int) -> tuple[int, int]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    return one_axis(shape[0]), one_axis(shape[1])


def ceil_padding(shape: tuple[int, int], side: int, stride: int) -> Padding:
    """Return the padding that completes the last window: output size ceil((n - side) / stride) + 1."""

    def one_axis(size: int) -> tuple[int, int]:
        return 0, -(-(size - side) // stride) * stride + side - size

    return one_axis(shape[0]), one_axis(shape[1])


def conv2d(images: Array, kernel: Array, *, stride: int = 1, padding: Padding = ((0, 0), (0, 0))) -> Array:
    """Apply a dense convolution: images [N, H, W, C], kernel [k, k, C, D] -> [N, H', W', D]."""
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return jnp.matmul(images[:, ::stride, ::stride], kernel[0, 0])
    native = partial(_native, stride=stride, padding=padding)
    if kernel.shape[2] > _PATCH_CHANNELS:
        return native(images, kernel)
    return lax.platform_dependent(
        images, kernel, cpu=partial(_patch_product, stride=stride, padding=padding), default=native
    )


def _native(images: Array, kernel: Array, *, stride: int, padding: Padding, groups: int = 1) -> Array:
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT, feature_group_count=groups
    )


def _patch_product(images: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    patches = jnp.concatenate(list(_shifts(_pad(images, padding), kernel.shape[0], stride).values()), -1)
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]))  # [N, H', W', k*k*C] -> [N, H', W', D]


def _pad(images: Array, padding: Padding, value: float = 0.0) -> Array:
    """Pad rows and columns with a value; negative amounts crop."""
    (top, bottom), (left, right) = padding
    none = (0, 0, 0)
    return lax.pad(images, jnp.array(value, images.dtype), (none, (top, bottom, 0), (left, right, 0), none))


def _shifts(padded: Array, side: int, stride: int) -> dict[tuple[int, int], Array]:
    """Return the strided view of a padded image that each tap (i, j) of a side x side kernel reads."""
    n, height, width, channels = padded.shape
    rows, cols = (height - side) // stride * stride + 1, (width - side) // stride * stride + 1
    return {
        (i, j): lax.slice(padded, (0, i, j, 0), (n, i + rows, j + cols, channels), (1, stride, stride, 1))
        for i in range(side)
        for j in range(side)
    }


def max_pool(images: Array, side: int, *, stride: int, padding: Padding = ((0, 0), (0, 0))) -> Array:
    """Return the maximum of every side x side window, ignoring padding: [N, H, W, C] -> [N, H', W', C].

    The first of several equal values, row by row, gets the gradient, as in PyTorch; NaN counts as the largest
    value. Written as maxima of strided slices, along columns and then along rows: on a CPU, forward and
    backward together take a twentieth of the time of `lax.reduce_window`, whose gradient is a scatter.
    """
    pooled = _pad(images, padding, -jnp.inf)
    for axis in (2, 1):
        span = (pooled.shape[axis] - side) // stride * stride + 1
        slices = [lax.slice_in_dim(pooled, i, i + span, stride, axis) for i in range(side)]
        pooled = reduce(_first_of_largest, slices)
    return pooled


def _first_of_largest(first: Array, second: Array) -> Array:
    return jnp.where((first >= second) | jnp.isnan(first), first, second)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv2d(images: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Apply a depthwise convolution: images [N, H, W, C], kernel [k, k, C] -> [N, H', W', C]."""
    return lax.platform_dependent(
        images,
        kernel,
        cpu=partial(_depthwise_shifted, stride=stride, padding=padding),
        default=partial(_depthwise_native, stride=stride, padding=padding),
    )


def _depthwise_forward(images: Array, kernel: Array, stride: int, padding: Padding) -> tuple[Array, Any]:
    return depthwise_conv2d(images, kernel, stride, padding), (images, kernel)


def _depthwise_backward(stride: int, padding: Padding, saved: Any, grad: Array) -> tuple[Array, Array]:
    images, kernel = saved
    native = partial(_depthwise_native, stride=stride, padding=padding)
    return lax.platform_dependent(
        images,
        kernel,
        grad,
        cpu=partial(_depthwise_shifted_backward, stride=stride, padding=padding),
        default=lambda images, kernel, grad: jax.vjp(native, images, kernel)[1](grad),
    )


depthwise_conv2d.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_native(images: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    return _native(images, kernel[:, :, None, :], stride=stride, padding=padding, groups=kernel.shape[-1])


def _depthwise_shifted(images: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    shifts = _shifts(_pad(images, padding), kernel.shape[0], stride)
    return sum_of(view * per_channel(kernel[tap]) for tap, view in shifts.items())


def _depthwise_shifted_backward(
    images: Array, kernel: Array, grad: Array, *, stride: int, padding: Padding
) -> tuple[Array, Array]:
    # The kernel's gradient costs nothing if it is not requested, because XLA removes unused code.
    shifts = _shifts(_pad(images, padding), kernel.shape[0], stride)
    by_tap = jnp.stack([jnp.sum(view * grad, (0, 1, 2)) for view in shifts.values()])
    return _image_gradient(grad, kernel, images.shape, stride, padding), by_tap.reshape(kernel.shape)


def _image_gradient(
    grad: Array, kernel: Array, shape: tuple[int, ...], stride: int, padding: Padding
) -> Array:
    """Return the gradient with respect to the images, phase by phase.

    All pixels of one phase (row and column modulo the stride) use the same taps, so that each phase is a sum
    of shifted products without a scatter and without zeros in between.
    """
    height, width = shape[1:3]
    side = kernel.shape[0]
    rows = [_phase_taps(phase, padding[0][0], side, stride) for phase in range(stride)]
    cols = [_phase_taps(phase, padding[1][0], side, stride) for phase in range(stride)]
    size = -(-height // stride), -(-width // stride)
    phases = [[_one_phase(grad, kernel, row, col, size) for col in cols] for row in rows]
    if stride == 1:
        return phases[0][0]
    interleaved = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)  # [N, H/s, s, W/s, s, C]
    interleaved = interleaved.reshape(shape[0], size[0] * stride, size[1] * stride, shape[3])
    return interleaved[:, :height, :width]


def _phase_taps(phase: int, before: int, side: int, stride: int) -> list[tuple[int, int]]:
    """Return (tap, offset) pairs: pixel q * stride + phase gets `tap` times gradient cell q + offset."""
    position = phase + before
    return [(tap, (position - tap) // stride) for tap in range(side) if (position - tap) % stride == 0]


def _one_phase(
    grad: Array,
    kernel: Array,
    rows: list[tuple[int, int]],
    cols: list[tuple[int, int]],
    size: tuple[int, int],
) -> Array:
    n, height, width, channels = grad.shape
    if not rows or not cols:  # a stride larger than the kernel skips these pixels
        return jnp.zeros((n, *size, channels), grad.dtype)
    top, left = min(offset for _, offset in rows), min(offset for _, offset in cols)
    bottom, right = max(offset for _, offset in rows), max(offset for _, offset in cols)
    padded = _pad(grad, ((-top, size[0] + bottom - height), (-left, size[1] + right - width)))

    def view(row: int, col: int) -> Array:
        start = (0, row - top, col - left, 0)
        return lax.slice(padded, start, (n, start[1] + size[0], start[2] + size[1], channels))

    return sum_of(view(row, col) * per_channel(kernel[i, j]) for i, row in rows for j, col in cols)


def per_channel(values: Array, ndim: int = 4) -> Array:
    """Return values [C] with `ndim` axes, so that they broadcast over the other axes of [N, H, W, C]."""
    return lax.expand_dims(values, range(ndim - values.ndim))


def sum_of(terms: Any) -> Array:
    """Return the sum of an iterable of arrays, without the zero that Python's `sum` starts from."""
    total = None
    for term in terms:
        total = term if total is None else total + term
    assert total is not None
    return total
