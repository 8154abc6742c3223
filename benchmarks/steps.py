"""The steps that throughput.py measures: models, pictures, settings, compiled programs, their passes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from floors import Passes
from jax import Array

import jaxplain as jx
from jaxplain import attributions
from jaxplain.masks.recipes import IGOS, IGOS_PP
from jaxplain.methods import METHODS, parameters

OBJECTIVES = {"igos++": IGOS_PP, "igos": IGOS}
PROPOSAL_STEPS = 16
RISE_SHARE = 8  # RISE needs so many model calls per image that fewer images fill any batch

# ---------------------------------------------------------------------------------------------------------
# Models and pictures


def load(name: str) -> jx.zoo.ZooClassifier:
    if name == "efficientnet-lite0":
        return jx.zoo.load(name)
    model = jx.zoo.MODELS[name].build(name, jx.zoo.imagenet_labels(), rngs=nnx.Rngs(0))
    logits = jax.jit(lambda model, images: model(images))(model, some_images(model, 2))
    spread = jnp.mean(jnp.std(logits, axis=1))
    model.classify.kernel = nnx.Param(model.classify.kernel[...] * (6.0 / spread))
    return model


def variant(model: Any, dtype: str, remat: bool) -> Any:
    """Return the model in a dtype, with activations recomputed or kept."""
    low = model if dtype == "float32" else jx.lower_precision(model, dtype)
    return jx.rematerialize(low) if remat else low


class Pictures(NamedTuple):
    """What is explained."""

    images: Array  # [N, H, W, 3]
    baselines: Array  # [N, H, W, 3]
    targets: Array  # int32 [N]


def some_images(model: jx.zoo.ZooClassifier, count: int) -> Array:
    """Return different images in model space: [count, H, W, 3]."""
    photos = None
    for paths in (harness.foolbox, lambda: [harness.cat()]):
        try:
            photos = photos or [harness.cropped(path, model) for path in paths()[:count]]
        except FileNotFoundError:
            continue
    photos = photos or [jax.random.normal(jax.random.key(2), (*model.spec.size, 3))]
    shifted = [jnp.roll(photos[n % len(photos)], 16 * (n // len(photos)), (0, 1)) for n in range(count)]
    return jnp.stack(shifted)


def some_pictures(model: jx.zoo.ZooClassifier, count: int) -> Pictures:
    images = some_images(model, count)
    targets = jax.jit(lambda model, images: jax.lax.map(partial(jx.top_class, model), images))(model, images)
    return Pictures(images, jax.jit(jax.vmap(jx.blur_baseline))(images), targets.astype(jnp.int32))


# ---------------------------------------------------------------------------------------------------------
# Settings and steps


class Setting(NamedTuple):
    """One row of the table."""

    method: str
    size: int
    images: int
    batch: int
    dtype: str
    remat: bool

    def __str__(self) -> str:
        name = f"{self.method:8} {self.size:4} {self.images:6} {self.batch:6} {self.dtype:9}"
        return name + ("remat" if self.remat else "     ")

    def adjusted(self) -> "Setting":
        """Return the setting without what the method does not use."""
        if self.method == "rise":
            return self._replace(size=7, images=max(1, self.images // RISE_SHARE), remat=False)
        return self._replace(size=7) if self.method == "sag" else self


class Effort(NamedTuple):
    """How much of a method is run."""

    samples: int  # masks of RISE
    iterations: int | None  # of igos and igos++; None: the method's default

    def mask_options(self, setting: Setting) -> dict[str, Any]:
        """Return options of igos and igos++; l2 is the default, as a number for the PyTorch loop."""
        iterations = {} if self.iterations is None else {"iterations": self.iterations}
        return {"size": setting.size, "l2": 20 * setting.size / 224, **iterations}

    def all_options(self, setting: Setting) -> dict[str, Any]:
        """Return all options of igos and igos++, including defaults."""
        return parameters(METHODS[setting.method], self.mask_options(setting))


class Explained(NamedTuple):
    """The cost and the result for one image."""

    evaluations: Array  # int32 [], the method's own count
    mask: Array  # of igos and igos++; otherwise the importance or the explanations


def explain(
    setting: Setting, effort: Effort, model: Any, image: Array, baseline: Array, target: Array, key: Array
) -> Explained:
    score, batch = jx.class_score(model, target), {"batch_size": setting.batch}
    if setting.method in OBJECTIVES:
        method = METHODS[setting.method].function
        explanation = method(score, image, baseline, **batch, **effort.mask_options(setting))
        return Explained(explanation.evaluations, explanation.details.mask)
    if setting.method == "rise":
        explanation = attributions.rise(score, image, baseline, key=key, n_samples=effort.samples, **batch)
        return Explained(explanation.evaluations, explanation.importance)
    proposal = jx.sag.proposal_map(score, image, baseline, n_steps=PROPOSAL_STEPS, **batch)
    result = jx.sag.search(score, image, baseline, proposal=proposal, **batch)
    return Explained(result.evaluations, result.explanations)


class Step(NamedTuple):
    """A compiled step."""

    run: Callable[[], Explained]
    compile_seconds: float
    planned_mib: float  # temporary memory that XLA planned


def compile_step(setting: Setting, effort: Effort, model: Any, pictures: Pictures) -> Step:
    given = jax.tree_util.tree_map(lambda leaf: leaf[: setting.images], pictures)
    keys = jax.random.split(jax.random.key(3), setting.images)
    step = jax.jit(lambda model, *rows: jax.vmap(partial(explain, setting, effort, model))(*rows))
    compiled, seconds = harness.timed(lambda: step.lower(model, *given, keys).compile())
    planned = compiled.memory_analysis()
    memory = planned.temp_size_in_bytes / 2**20 if planned is not None else float("nan")
    return Step(lambda: jax.block_until_ready(compiled(model, *given, keys)), seconds, memory)


def count_passes(setting: Setting, effort: Effort, evaluations: Array) -> Passes:
    """Return the passes of a step, from the results' own counts."""
    total, backward = int(np.sum(evaluations)), 0
    if setting.method in OBJECTIVES:
        chosen, terms = effort.all_options(setting), len(OBJECTIVES[setting.method].terms)
        backward = setting.images * chosen["iterations"] * terms * chosen["n_steps"]
        return Passes(total - backward, backward)
    return Passes(total, setting.images * PROPOSAL_STEPS if setting.method == "sag" else 0)
