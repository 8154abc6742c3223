"""Sparseness: does a map point at little, or at everything a bit?"""

import jax.numpy as jnp
from jax import Array

from jaxplain.metrics.maps import check_floats


def gini(saliency: Array) -> Array:
    """Gini index of a map's absolute values: 0 where all n are equal, 1 - 1/n where one holds everything.

    With the absolute values sorted upwards, a_1 <= ... <= a_n:
    `sum_i (2 i - n - 1) a_i / (n * sum_i a_i)`. High = sparse, which is easier to read and says nothing about
    being right. It does not depend on scale or sign, but on an offset: a map whose unimportant parts are not
    0 is less sparse for it. Compare maps of one resolution.

    Args:
      saliency: any shape, [h, w] as a rule.

    Returns:
      float32 []; NaN for a map of zeros and for one that holds NaN or infinity.

    Raises:
      TypeError, ValueError: not an array of floats, or empty.

    References:
      Hurley, Rickard. Comparing Measures of Sparsity. IEEE Transactions on Information Theory 2009.
      Chalasani et al. Concise Explanations of Neural Networks using Adversarial Training. ICML 2020.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> [float(jx.metrics.gini(jnp.array(values))) for values in ([1.0, 1.0], [0.0, 3.0])]
      [0.0, 0.5]
    """
    check_floats(saliency, "saliency")
    values = jnp.sort(jnp.abs(jnp.asarray(saliency, jnp.float32)).reshape(-1))
    values = values / values[-1]  # the largest becomes 1, so that no sum overflows
    count = values.size
    weights = (2.0 * jnp.arange(1, count + 1) - count - 1) / count
    return jnp.sum(weights * values) / jnp.sum(values)
