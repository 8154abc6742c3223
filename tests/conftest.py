"""What holds for the whole test process, and a tiny scene that compiles fast."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

import jaxplain as jx

# No wall-clock deadlines on a shared machine, and the same examples on every run.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("repeatable")

CORE = (
    "scores",
    "funnel",
    "perturb",
    "paths",
    "penalties",
    "objective",
    "descent",
    "engine",
    "causal",
    "sag_search",
    "attributions",
    "attributions_gradients",
    "attributions_maps",
)

QUICK = ("export", "precision")  # compiled like the core


@pytest.fixture(autouse=True, scope="module")
def strict_and_quick(request):
    """In the core no array grows an axis unasked, so that a mask [h, w] times an image [H, W, C] is an error
    and not a wrong picture. The zoo (and Keras) adds biases [C] to maps [N, H, W, C] on purpose.

    The core's hundreds of tiny programs are compiled without most optimisations, which takes half as long;
    the tests of whole models, of memory and of the command line are compiled as users compile.
    """
    name = request.module.__name__.removeprefix("test_")
    strict = name in CORE
    jax.config.update("jax_disable_most_optimizations", strict or name in QUICK)
    with jax.numpy_rank_promotion("raise" if strict else "allow"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    # Thousands of compiled programs in one process run into the system's limit of memory maps.
    jax.clear_caches()


class Net(NamedTuple):
    """A smooth, nonlinear classifier of 12 x 12 x 3 images as a pytree: logits [N, 4]."""

    first: jax.Array  # [432, 6]
    second: jax.Array  # [6, 4]

    def __call__(self, images):
        return jnp.tanh(images.reshape(len(images), -1) @ self.first) @ self.second


class Scene(NamedTuple):
    """Something to explain; the image scores well above the baseline."""

    net: Net
    score: jx.ClassScore
    image: jax.Array  # [12, 12, 3]
    baseline: jax.Array  # [12, 12, 3]


@pytest.fixture(scope="session")
def scene():
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    net = Net(normal(432, 6) / 12, normal(6, 4))
    image = normal(12, 12, 3)
    baseline = jx.blur_baseline(image, kernel=5)
    probabilities = jax.nn.softmax(net(jnp.stack([image, baseline])))
    return Scene(
        net, jx.class_score(net, int(jnp.argmax(probabilities[0] - probabilities[1]))), image, baseline
    )
