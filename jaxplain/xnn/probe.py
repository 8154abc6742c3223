"""A linear probe: a softmax head on frozen features, for classes the network was not trained on."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxplain.checks import check_positive_int


class Probe(NamedTuple):
    """Features [N, D] -> logits [N, K]; a pytree."""

    kernel: Array  # [D, K]
    bias: Array  # [K]

    def __call__(self, features: Array) -> Array:
        """Logits: [N, D] -> [N, K]."""
        return features @ self.kernel + self.bias


def linear_probe(
    features: Array, labels: Array, classes: int, *, l2: Array | float = 1e-3, iterations: int = 100
) -> Probe:
    """Fit a softmax head on frozen features by L-BFGS, from zero: no randomness.

    Args:
      features: [N, D]; standardised inside, so that `l2` means the same for all of them.
      labels: int [N], in 0..classes - 1, each class at least once.
      classes: K.
      l2: of the sum of squares of the kernel on standardised features, beside the mean cross-entropy.
      iterations: of L-BFGS.

    Returns:
      A `Probe` that takes raw features.

    Raises:
      ValueError: shapes that do not fit; and, where the arrays are concrete, features that are not finite, a
        label out of range or a class with no example.

    Example:
      >>> features = jnp.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.2]])
      >>> probe = linear_probe(features, jnp.array([0, 0, 1, 1]), 2)
      >>> probe(features).argmax(1).tolist()
      [0, 0, 1, 1]
    """
    check_positive_int(classes, "classes")
    check_positive_int(iterations, "iterations")
    _check(features, labels, classes)
    return _fit(jnp.asarray(features), jnp.asarray(labels), classes, l2, iterations)


def _check(features: Array, labels: Array, classes: int) -> None:
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise ValueError(f"features must be [N, D] and labels [N], got {features.shape} and {labels.shape}.")
    if isinstance(features, jax.core.Tracer) or isinstance(labels, jax.core.Tracer):
        return
    if not np.isfinite(features).all():
        raise ValueError("features must be finite, but hold NaN or infinite values; look at the model.")
    found = np.unique(labels)
    if found[0] < 0 or found[-1] >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, got {found[0]}..{found[-1]}.")
    if missing := sorted(set(range(classes)) - set(found.tolist())):
        raise ValueError(
            f"no example of class {', '.join(map(str, missing[:5]))}: each of the classes needs one."
        )


@partial(jax.jit, static_argnums=(2, 4))
def _fit(features: Array, labels: Array, classes: int, l2: Array | float, iterations: int) -> Probe:
    shift, spread = features.mean(0), features.std(0)
    scale = jnp.where(spread > 0, spread, 1)
    standardized = (features - shift) / scale
    optimizer = optax.lbfgs()

    def loss(probe: Probe) -> Array:
        error = optax.softmax_cross_entropy_with_integer_labels(probe(standardized), labels)
        return error.mean() + l2 * jnp.sum(probe.kernel**2)

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Probe, optax.OptState], _: None) -> tuple[tuple[Probe, optax.OptState], None]:
        probe, state = carry
        value, slope = value_and_grad(probe, state=state)
        updates, state = optimizer.update(slope, state, probe, value=value, grad=slope, value_fn=loss)
        return (optax.apply_updates(probe, updates), state), None

    start = Probe(jnp.zeros((features.shape[1], classes)), jnp.zeros(classes))
    (probe, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=iterations)
    kernel = probe.kernel / scale[:, None]
    return Probe(kernel, probe.bias - shift @ kernel)
