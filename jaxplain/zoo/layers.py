"""Layers with batch norm folded in, and loading of published weights into them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxplain.zoo.conv import conv2d, depthwise_conv2d, per_channel, same_padding
from jaxplain.zoo.weights import check_fit, common_prefix


def _initial(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    return nnx.Param(rngs.params.normal(shape, jnp.float32) * (2.0 / fan_in) ** 0.5)


class Conv(nnx.Module):
    """Convolution with bias: [N, H, W, C] -> [N, H', W', D]. `padding`: zeros on each side, or "same"."""

    def __init__(
        self, inputs: int, outputs: int, side: int, *, stride: int = 1, padding: int | str = 0, rngs: nnx.Rngs
    ):
        self.kernel = _initial(rngs, (side, side, inputs, outputs), side * side * inputs)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.stride = stride
        self.padding = padding

    def __call__(self, images: Array) -> Array:
        """Apply the layer."""
        pad = _padding(self.padding, images, self.kernel.shape[0], self.stride)
        return conv2d(images, self.kernel[...], stride=self.stride, padding=pad) + per_channel(self.bias[...])


class DepthwiseConv(nnx.Module):
    """Depthwise convolution with bias and "same" padding: [N, H, W, C] -> [N, H', W', C]."""

    def __init__(self, channels: int, side: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.kernel = _initial(rngs, (side, side, channels), side * side)
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.stride = stride

    def __call__(self, images: Array) -> Array:
        """Apply the layer."""
        pad = _padding("same", images, self.kernel.shape[0], self.stride)
        return depthwise_conv2d(images, self.kernel[...], self.stride, pad) + per_channel(self.bias[...])


class Linear(nnx.Module):
    """Linear layer with bias: [N, C] -> [N, D]."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.kernel = _initial(rngs, (inputs, outputs), inputs)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, features: Array) -> Array:
        """Apply the layer."""
        return jnp.matmul(features, self.kernel[...]) + per_channel(self.bias[...], features.ndim)


def _padding(padding: int | str, images: Array, side: int, stride: int) -> tuple:
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    return same_padding((images.shape[1], images.shape[2]), side, stride)


class Slot(NamedTuple):
    """One layer and the names of its weights in a PyTorch state dict."""

    layer: Conv | DepthwiseConv | Linear
    name: str  # "<name>.weight", "<name>.bias"
    norm: str | None = None  # the batch norm that follows, folded into the layer; it then has no bias


_NORM_FIELDS = ("weight", "bias", "running_mean", "running_var")


def load_slots(
    slots: Iterable[Slot], state: Mapping[str, np.ndarray], *, epsilon: float, source: str
) -> None:
    """Load a PyTorch state dict into layers, folding every batch norm (`epsilon`) into its layer.

    The layers may be abstract, from `nnx.eval_shape`: their parameters are replaced, not written to.
    `device_put` compiles nothing; every other way to create an array compiles once per shape.

    Raises:
      WeightsError: if an entry is missing, unexpected, or has the wrong shape; no layer is changed.
    """
    slots = list(slots)
    expected = expected_shapes(slots)
    state = _without_wrappers(state, expected)
    check_fit(state, expected, source=source)
    for slot in slots:
        kernel, bias = _folded(slot, state, epsilon)
        slot.layer.kernel.set_value(jax.device_put(kernel))
        slot.layer.bias.set_value(jax.device_put(bias))


def classes_of(slots: Iterable[Slot], state: Mapping[str, np.ndarray]) -> int | None:
    """Return the number of outputs of the last layer in a PyTorch state dict; None if it is missing."""
    slots = list(slots)
    expected = expected_shapes(slots)
    name = f"{slots[-1].name}.weight"
    weight = _without_wrappers(state, expected).get(name)
    fits = weight is not None and weight.shape[1:] == expected[name][1:] and weight.shape[0] > 0
    return weight.shape[0] if weight is not None and fits else None


def _without_wrappers(
    state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> Mapping[str, np.ndarray]:
    """Remove the prefixes that all names share because the model was an attribute of a larger one."""
    while not expected.keys() & state.keys() and (prefix := common_prefix(state)):
        state = {name.removeprefix(prefix): array for name, array in state.items()}
    return state


def expected_shapes(slots: Iterable[Slot]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that the state dict must have."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, name, norm in slots:
        shapes[f"{name}.weight"] = _torch_shape(layer)
        if norm is None:
            shapes[f"{name}.bias"] = layer.bias.shape
        else:
            shapes |= {f"{norm}.{field}": layer.bias.shape for field in _NORM_FIELDS}
    return shapes


def _torch_shape(layer: Conv | DepthwiseConv | Linear) -> tuple[int, ...]:
    shape = layer.kernel.shape
    if isinstance(layer, Linear):
        return shape[::-1]
    if isinstance(layer, DepthwiseConv):
        return (shape[2], 1, shape[0], shape[1])
    return (shape[3], shape[2], shape[0], shape[1])


def _folded(slot: Slot, state: Mapping[str, np.ndarray], epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    weight = state[f"{slot.name}.weight"].astype(np.float32)
    if isinstance(slot.layer, Linear):
        kernel = weight.T
    else:
        kernel = weight.transpose(2, 3, 1, 0)  # [D, C, k, k] -> [k, k, C, D]
        kernel = kernel[:, :, 0] if isinstance(slot.layer, DepthwiseConv) else kernel
    if slot.norm is None:
        return kernel, state[f"{slot.name}.bias"].astype(np.float32)
    scale, shift, mean, variance = (state[f"{slot.norm}.{f}"].astype(np.float32) for f in _NORM_FIELDS)
    factor = scale / np.sqrt(variance + epsilon)
    return kernel * factor, shift - mean * factor
