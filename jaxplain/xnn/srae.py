"""The sparse reconstruction auto-encoder (SRAE): a layer's features -> x-features -> a class's logit."""

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
DecoderOutput = Literal["relu", "linear"]
HeadSign = Literal["positive", "signed"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "tanh": jnp.tanh,
}
OUTPUTS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "linear": lambda values: values}


class Constant(nnx.Variable):
    """A statistic of the data that is not trained."""


@dataclass(frozen=True)
class SRAEConfig:
    """The architecture of an SRAE.

    Raises:
      ValueError, TypeError: if a width is below 1, there are at least as many x-features as units in the
        layer below, an activation is unknown, or the dropout rate is outside [0, 1).
    """

    features: int  # D, size of the explained layer
    n_features: int = 5  # n, number of x-features
    classes: int = 1  # K, number of logits explained together
    widths: tuple[int, ...] = (800, 100)  # hidden layers between features and x-features
    activation: Activation = "relu"
    output: DecoderOutput = "relu"  # "linear" for features that may be negative
    head: HeadSign = "positive"  # "signed", as published: x-features may also lower a logit
    dropout: float = 0.02  # after the first layer

    def __post_init__(self) -> None:
        """Check every field."""
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
        check_choice(self.head, get_args(HeadSign), "head")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of units in each encoder layer, from the features to the x-features."""
        return (self.features, *self.widths, self.n_features)


class SRAEOutputs(NamedTuple):
    """The outputs of an SRAE for standardized features."""

    x_features: Array  # [N, n], at least 0
    reconstruction: Array  # [N, D], of the standardized features
    logits: Array  # [N, K], standardized


class SRAE(nnx.Module):
    """Features [N, D] -> logits [N, K] through n non-negative x-features.

    Inputs and outputs are in the classifier's units. Internally, features have about unit standard deviation,
    and logits have mean 0 and a fixed standard deviation (see `jaxplain.xnn.fit`), so that loss weights are
    comparable across models.

    Args:
      config: the architecture.
      rngs: random number generators that initialize the weights.

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
        self.feature_shift = Constant(jnp.zeros(config.features, jnp.float32))
        self.feature_scale = Constant(jnp.ones(config.features, jnp.float32))
        self.logit_shift = Constant(jnp.zeros(config.classes, jnp.float32))
        self.logit_scale = Constant(jnp.ones(config.classes, jnp.float32))

    def standardize(self, features: Array) -> Array:
        """Standardize raw features: [N, D] -> [N, D]."""
        if features.ndim != 2 or features.shape[1] != self.config.features:
            raise ValueError(f"features must be [N, {self.config.features}], got {features.shape}.")
        return (features - self.feature_shift[...][None]) / self.feature_scale[...][None]

    def hidden(self, standardized: Array, key: Array | None = None) -> Array:
        """Return the input of the encoder's last layer: standardized features [N, D] -> [N, H].

        With a key, dropout is applied after the first layer.
        """
        values = standardized
        for index, layer in enumerate(self.encoder[:-1]):
            values = ACTIVATIONS[self.config.activation](layer(values))
            if index == 0 and key is not None:
                values = drop_out(values, self.config.dropout, key)
        return values

    def encode(self, standardized: Array, key: Array | None = None) -> Array:
        """Encode standardized features as x-features: [N, D] -> [N, n]; a key adds dropout."""
        return jax.nn.relu(self.encoder[-1](self.hidden(standardized, key)))

    def decode(self, x_features: Array) -> Array:
        """Decode x-features to standardized features: [N, n] -> [N, D]."""
        values = x_features
        for layer in self.decoder[:-1]:
            values = ACTIVATIONS[self.config.activation](layer(values))
        return OUTPUTS[self.config.output](self.decoder[-1](values)) - self.floor[None]

    @property
    def floor(self) -> Array:
        """Mean features over their scales, [D]; subtracted from reconstructions, as inputs are centered."""
        return self.feature_shift[...] / self.feature_scale[...]

    def forward(self, standardized: Array, key: Array | None = None) -> SRAEOutputs:
        """Compute x-features, reconstruction and logits of standardized features [N, D], for training."""
        x_features = self.encode(standardized, key)
        return SRAEOutputs(
            x_features, self.decode(x_features), x_features @ self.kernel + self.head_bias[None]
        )

    def x_features(self, features: Array) -> Array:
        """Return the x-features, at least 0: features [N, D] -> [N, n]."""
        return self.encode(self.standardize(features))

    def contributions(self, features: Array, target: Array | int = 0) -> Array:
        """Return each x-feature's contribution to a logit: [N, D] -> [N, n].

        The contributions and `bias` sum to the logit.
        """
        return self.x_features(features) * self.weights[:, target][None]

    @property
    def kernel(self) -> Array:
        """Standardized logit of each class per unit of each x-feature: [n, K]."""
        kernel = self.head.kernel[...]
        return jnp.abs(kernel) if self.config.head == "positive" else kernel

    @property
    def head_bias(self) -> Array:
        """Standardized logit of each class when no x-feature is active: [K]."""
        assert self.head.bias is not None
        return self.head.bias[...]

    @property
    def weights(self) -> Array:
        """Logit of each class per unit of each x-feature: [n, K]."""
        return self.kernel * self.logit_scale[...][None]

    @property
    def bias(self) -> Array:
        """Logit of each class when no x-feature is active: [K]."""
        return self.head_bias * self.logit_scale[...] + self.logit_shift[...]

    def __call__(self, features: Array) -> Array:
        """Return the explained logits: features [N, D] -> [N, K]."""
        return self.x_features(features) @ self.weights + self.bias[None]


def _layers(sizes: Sequence[int], rngs: nnx.Rngs) -> nnx.List:
    he = nnx.initializers.he_normal()
    return nnx.List(nnx.Linear(below, above, kernel_init=he, rngs=rngs) for below, above in pairwise(sizes))


def drop_out(values: Array, rate: float, key: Array) -> Array:
    """Set a random fraction `rate` of the values to 0 and scale the others up to keep the mean."""
    retained = jax.random.bernoulli(key, 1 - rate, values.shape)
    return jnp.where(retained, values / (1 - rate), 0)
