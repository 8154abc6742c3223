"""Photos of three classes that a linear probe can separate, and networks that look fitted to them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxplain import xnn
from jaxplain.explanation import Status
from jaxplain.xnn.losses import LossTerms, LossWeights

SPECIES = ("auk", "bee eater", "crow")
COLORS = ((220, 40, 40), (40, 200, 40), (40, 40, 220))


def write_birds(folder=Path("birds"), count=12):
    """Write one sub-folder per class: noise with a block of the class's colour somewhere."""
    random = np.random.default_rng(0)
    for name, color in zip(SPECIES, COLORS, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo = random.integers(90, 160, (36, 36, 3)).astype(np.uint8)
            top, left = random.integers(0, 18, 2)
            photo[top : top + 18, left : left + 18] = color
            Image.fromarray(photo).save(folder / name / f"{number}.png")
    return folder


def quick_fit(features, logits, *, key, n_features=5, widths=(8,), epochs=2, **options):
    """`xnn.fit` without training: random weights, in a moment. Compiling a fit takes ten seconds."""
    config = xnn.SRAEConfig(features.shape[1], n_features, widths=widths)
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    srae = jax.tree.map(
        lambda leaf: jnp.asarray(random.standard_normal(leaf.shape) / 4, jnp.float32),
        nnx.eval_shape(lambda: xnn.SRAE(config, rngs=nnx.Rngs(0))),
    )
    srae.feature_scale[...], srae.logit_scale[...] = jnp.ones(features.shape[1]), jnp.ones(1)
    srae.feature_shift[...] = features.mean(0)
    srae.logit_shift[...] = logits.mean(keepdims=True)
    history = LossTerms(*(jnp.arange(epochs, dtype=jnp.float32) for _ in LossTerms._fields))
    weights = LossWeights(*map(jnp.float32, xnn.DEFAULT_WEIGHTS))
    return xnn.FitResult(
        srae, jnp.int32(Status.NOT_ACCEPTED), jnp.int32(1), weights, jnp.int32(epochs - 1), history, history
    )
