"""Controls that every method must beat: random numbers and the image's edges."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.checks import Pair, as_image, as_key, as_pair
from jaxplain.explanation import Explanation, finished


def random_map(
    score: Any,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    size: Pair = 28,
) -> Explanation:
    """Control: a map of uniform random numbers, which every method must beat.

    Args:
      score: ignored; the model is not evaluated.
      image: [H, W, C]; only checked.
      baseline: ignored.
      key: random key; consumed.
      batch_size: ignored.
      size: number of rows and of columns of the map (static).

    Returns:
      An `Explanation` with importance [size, size] in [0, 1) and no evaluations.

    Raises:
      ValueError, TypeError: missing or invalid key, invalid image, or invalid size.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> attributions.random_map(None, jnp.zeros((8, 8, 3)), key=jax.random.key(0), size=4).importance.shape
      (4, 4)
    """
    as_image(image)
    drawn = jax.random.uniform(as_key(key, "random_map"), as_pair(size, "size"), jnp.float32)
    return finished(drawn, jnp.zeros((), jnp.float32), 0)


def edges(
    score: Any,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
) -> Explanation:
    """Control: the image's edges, independent of what the classifier has learned.

    The map is the magnitude of the Sobel gradient, summed over channels. It looks convincing but must fail
    every sanity check.

    Args:
      score: ignored; the model is not evaluated.
      image: [H, W, C].
      baseline: ignored.
      key: ignored.
      batch_size: ignored.

    Returns:
      An `Explanation` with importance [H, W] and no evaluations.

    Raises:
      ValueError, TypeError: invalid image.

    References:
      Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim. Sanity Checks for Saliency Maps. NeurIPS 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.zeros((2, 5, 1)).at[:, 2:].set(1.0)
      >>> attributions.edges(None, image).importance[0].tolist()
      [0.0, 4.0, 4.0, 0.0, 0.0]
    """
    padded = jnp.pad(as_image(image), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    along = padded[2:] - padded[:-2]
    across = across[:-2] + 2 * across[1:-1] + across[2:]
    along = along[:, :-2] + 2 * along[:, 1:-1] + along[:, 2:]
    return finished(jnp.sum(jnp.sqrt(across**2 + along**2), axis=-1), jnp.zeros((), jnp.float32), 0)
