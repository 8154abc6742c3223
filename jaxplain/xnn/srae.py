"""The sparse reconstruction auto-encoder (SRAE): features of a layer -> x-features -> logit of a class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxplain.checks import check_choice, check_positive_int

Activation = Literal["relu", "softplus", "gelu", "tanh"]
Output = Literal["relu", "linear"]
Head = Literal["positive", "signed"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "tanh": jnp.tanh,
}
OUTPUTS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "linear": lambda values: values}


class Constant(nnx.Variable):
    """What is measured on the data and not trained."""


@dataclass(frozen=True)
class SRAEConfig:
    """What makes an SRAE, apart from its numbers.

    Raises:
      ValueError, TypeError: a width below 1, no fewer x-features than the layer below has units, an unknown
        activation, a dropout outside [0, 1).
    """

    features: int  # D, of the layer that is explained
    n_features: int = 5  # n, the x-features
    classes: int = 1  # K, logits that are explained together
    widths: tuple[int, ...] = (800, 100)  # of the layers between
    activation: Activation = "relu"
    output: Output = "relu"  # of the decoder; "linear" for features that may be negative
    head: Head = "positive"  # whether x-features may speak against a class: "signed", as published
    dropout: float = 0.02  # after the first layer

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        object.__setattr__(self, "widths", tuple(self.widths))
        for name in ("features", "n_features", "classes"):
            check_positive_int(getattr(self, name), name)
        for width in self.widths:
            check_positive_int(width, "widths")
        below = (self.features, *self.widths)[-1]
        if self.n_features >= below:
            raise ValueError(
                f"n_features must be less than the {below} units of the layer below, got {self.n_features}."
            )
        check_choice(self.activation, ACTIVATIONS, "activation")
        check_choice(self.output, OUTPUTS, "output")
        check_choice(self.head, get_args(Head), "head")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of all layers of the encoder, from the features to the x-features."""
        return (self.features, *self.widths, self.n_features)


class Reading(NamedTuple):
    """What an SRAE makes of standardised features."""

    x_features: Array  # [N, n], at least 0
    reconstruction: Array  # [N, D], of the standardised features
    logits: Array  # [N, K], standardised


class SRAE(nnx.Module):
    """Features [N, D] -> logits [N, K] through n non-negative x-features.

    Inside, features have unit deviation and logits mean 0 and the deviation of `fit`'s scale, so that loss
    weights mean the same on every model; the module takes and gives raw ones.

    Args:
      config: its shape.
      rngs: of the weights.

    Example:
      >>> from flax import nnx
      >>> srae = SRAE(SRAEConfig(features=32, widths=(16, 8)), rngs=nnx.Rngs(0))
      >>> srae(jnp.ones((4, 32))).shape, srae.x_features(jnp.ones((4, 32))).shape
      ((4, 1), (4, 5))
    """

    def __init__(self, config: SRAEConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.encoder = _layers(config.sizes, rngs)
        self.decoder = _layers(config.sizes[::-1], rngs)
        self.head = nnx.Linear(config.n_features, config.classes, rngs=rngs)
        self.feature_shift = Constant(jnp.zeros(config.features))
        self.feature_scale = Constant(jnp.ones(config.features))
        self.logit_shift = Constant(jnp.zeros(config.classes))
        self.logit_scale = Constant(jnp.ones(config.classes))

    def standardize(self, features: Array) -> Array:
        """[N, D] as a layer gives them -> as the network was trained on them."""
        if features.ndim != 2 or features.shape[1] != self.config.features:
            raise ValueError(f"features must be [N, {self.config.features}], got {features.shape}.")
        return (features - self.feature_shift[...]) / self.feature_scale[...]

    def encode(self, standardized: Array, key: Array | None = None) -> Array:
        """Standardised features [N, D] -> x-features [N, n]; with a key, dropout after the first layer."""
        return jax.nn.relu(self.encoder[-1](self.hidden(standardized, key)))

    def hidden(self, standardized: Array, key: Array | None = None) -> Array:
        """What the layer of the x-features sees: standardised features [N, D] -> [N, H]."""
        values = standardized
        for at, layer in enumerate(self.encoder[:-1]):
            values = ACTIVATIONS[self.config.activation](layer(values))
            if at == 0 and key is not None:
                values = drop_out(values, self.config.dropout, key)
        return values

    def decode(self, x_features: Array) -> Array:
        """X-features [N, n] -> standardised features [N, D]."""
        values = x_features
        for layer in self.decoder[:-1]:
            values = ACTIVATIONS[self.config.activation](layer(values))
        return OUTPUTS[self.config.output](self.decoder[-1](values)) - self.floor

    @property
    def floor(self) -> Array:
        """Mean feature in deviations, [D]: the encoder's inputs are centred, a ReLU's outputs are not."""
        return self.feature_shift[...] / self.feature_scale[...]

    def read(self, standardized: Array, key: Array | None = None) -> Reading:
        """Everything at once, for training: standardised features [N, D]."""
        x_features = self.encode(standardized, key)
        bias = self.head.bias
        assert bias is not None
        return Reading(x_features, self.decode(x_features), x_features @ self.kernel + bias[...])

    def x_features(self, features: Array) -> Array:
        """Features [N, D] -> x-features [N, n], at least 0."""
        return self.encode(self.standardize(features))

    def contributions(self, features: Array, target: Array | int = 0) -> Array:
        """What each x-feature adds to a class's logit: features [N, D] -> [N, n]; with `bias` the logit."""
        return self.x_features(features) * self.weights[:, target]

    @property
    def kernel(self) -> Array:
        """Standardised logit of each class per unit of each x-feature: [n, K]."""
        kernel = self.head.kernel[...]
        return jnp.abs(kernel) if self.config.head == "positive" else kernel

    @property
    def weights(self) -> Array:
        """Logit of each class per unit of each x-feature: [n, K]."""
        return self.kernel * self.logit_scale[...]

    @property
    def bias(self) -> Array:
        """Logit of each class where no x-feature is active: [K]."""
        bias = self.head.bias
        assert bias is not None
        return bias[...] * self.logit_scale[...] + self.logit_shift[...]

    def __call__(self, features: Array) -> Array:
        """Features [N, D] -> the explained logits [N, K]."""
        return self.x_features(features) @ self.weights + self.bias


def _layers(sizes: Sequence[int], rngs: nnx.Rngs) -> nnx.List:
    he = nnx.initializers.he_normal()
    return nnx.List(nnx.Linear(below, above, kernel_init=he, rngs=rngs) for below, above in pairwise(sizes))


def drop_out(values: Array, rate: float, key: Array) -> Array:
    """Zero a share of the values and scale the others up."""
    kept = jax.random.bernoulli(key, 1 - rate, values.shape)
    return jnp.where(kept, values / (1 - rate), 0)
