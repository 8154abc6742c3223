"""Complexity: does a map highlight a few regions, or everything a little?"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.checks import check_floats


def gini(importance: Array) -> Array:
    """Compute the Gini index of a map's n absolute values: 0 if all are equal, 1 - 1/n if only one is not 0.

    With the absolute values in ascending order, a_1 <= ... <= a_n:
    `sum_i (2 i - n - 1) a_i / (n * sum_i a_i)`. High values mean a sparse map, which is easier to
    read but not necessarily correct. The index is invariant to scale and sign, but not to an offset: it is
    lower if the unimportant parts of a map are not 0. Compare only maps of the same resolution.

    Args:
      importance: any shape, usually [h, w].

    Returns:
      float32 []; NaN if the map is zero everywhere or has NaN or infinite values.

    Raises:
      TypeError, ValueError: not a floating-point array, or empty.

    References:
      Hurley, Rickard. Comparing Measures of Sparsity. IEEE Transactions on Information Theory 2009.
      Chalasani et al. Concise Explanations of Neural Networks using Adversarial Training. ICML 2020.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> [float(jx.metrics.gini(jnp.array(values))) for values in ([1.0, 1.0], [0.0, 3.0])]
      [0.0, 0.5]
    """
    check_floats(importance, "importance")
    return _gini(importance)


@jax.jit
def _gini(importance: Array) -> Array:
    values = jnp.sort(jnp.abs(importance.astype(jnp.float32)).reshape(-1))
    values = values / values[-1]  # the largest becomes 1, so that no sum overflows
    count = values.size
    weights = (2.0 * jnp.arange(1, count + 1, dtype=jnp.float32) - count - 1) / count
    return jnp.sum(weights * values) / jnp.sum(values)
