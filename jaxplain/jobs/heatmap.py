"""Heatmaps of photos: one compiled program for a run, and every photo of the run through it.

The explanation itself is a pure function of a score (`jaxplain.masks`, `jaxplain.metrics`);
`jaxplain.jobs.heatmap_files` writes what comes out.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel
from jaxplain.checks import check_choice, check_positive_int
from jaxplain.jobs.photos import check_class, check_seed, decode_target, encode_target, photo_key
from jaxplain.masks import METHODS, Heatmap, Status, parameters
from jaxplain.metrics import Curves, insertion_deletion
from jaxplain.perturb import BASELINES, baseline
from jaxplain.scores import KINDS, class_score
from jaxplain.zoo import Classifier


@dataclass(frozen=True)
class Job:
    """What to do with every photo of a run.

    Raises:
      ValueError, TypeError: an unknown name (says which come nearest) or a number that cannot be.
    """

    method: str = "igos++"
    options: Mapping[str, Any] = field(default_factory=dict)  # of the method, but `key`
    target: int | None = None  # class index; None explains the top prediction of each photo
    baseline: str = "blur"
    kind: str = "probability"  # of the score
    seed: int = 0
    curve_steps: int = 50

    def __post_init__(self) -> None:
        check_choice(self.method, METHODS, "method")
        check_choice(self.baseline, BASELINES, "baseline")
        check_choice(self.kind, KINDS, "score kind")
        check_positive_int(self.curve_steps, "curve_steps")
        check_seed(self.seed)
        chosen = self.parameters
        for name in ("iterations", "steps", "batch_size"):
            check_positive_int(chosen[name], name)

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter of the method: the preset's, the given ones, and what the platform decides."""
        chosen = parameters(self.method, self.options)
        given = chosen.get("batch_size")
        return chosen | {"batch_size": funnel.default_batch_size() if given is None else given}


class Outcome(NamedTuple):
    """What the compiled program returns for one photo."""

    target: Array  # int32 [], the explained class
    probability: Array  # [], its softmax probability on the photo
    heatmap: Heatmap
    curves: Curves


class Program(NamedTuple):
    """A job compiled for a classifier; every photo of a run goes through it."""

    job: Job
    classifier: Classifier
    run: Callable[..., Outcome]
    compile_seconds: float


class Explanation(NamedTuple):
    """One explained photo."""

    seen: np.ndarray  # uint8 [H, W, 3], what the model saw of it
    label: str
    outcome: Outcome  # of NumPy arrays
    key: tuple[int, ...]  # data of the photo's random key
    seconds: float  # of the compiled run

    @property
    def status(self) -> Status:
        """How the optimisation ended."""
        return Status(int(self.outcome.heatmap.status))


def check_fits(job: Job, classifier: Classifier) -> None:
    """Refuse a job that a classifier cannot do, before minutes are spent on it.

    Raises:
      ValueError: the target is no class of it, or the mask is finer than its input.
    """
    check_class(job.target, len(classifier.labels))
    size, finest = job.parameters["size"], classifier.spec.size
    if size[0] > finest[0] or size[1] > finest[1]:
        raise ValueError(
            f"size {_by(size)} is finer than the input of {classifier.name}, {_by(finest)} pixels; "
            "choose at most that."
        )


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def compile_job(job: Job, classifier: Classifier) -> Program:
    """Compile a job for a classifier: one program for all photos and targets.

    Raises:
      ValueError: the job does not fit the classifier; see `check_fits`.
    """
    check_fits(job, classifier)
    image = jax.ShapeDtypeStruct((*classifier.spec.size, 3), jnp.float32)
    target = jax.ShapeDtypeStruct((), jnp.int32)
    start = time.perf_counter()
    traced = jax.jit(partial(_explain, job)).lower(classifier, image, image, target, jax.random.key(0))
    run = traced.compile()
    return Program(job, classifier, run, time.perf_counter() - start)


def _explain(
    job: Job, classifier: Classifier, image: Array, background: Array, target: Array, key: Array
) -> Outcome:
    target = decode_target(target, classifier, image)
    score = class_score(classifier, target, job.kind)  # type: ignore[arg-type]
    heatmap = METHODS[job.method](score, image, background, key=key, **job.options)
    # Measured on the probability, whatever was optimised, and at the mask's own resolution.
    curves = insertion_deletion(
        class_score(classifier, target),
        image,
        background,
        1.0 - heatmap.mask,
        steps=job.curve_steps,
        batch_size=job.options.get("batch_size"),
    )
    return Outcome(target, curves.deletion[0], heatmap, curves)


def explain_photo(program: Program, rgb: np.ndarray) -> Explanation:
    """Explain one photo, uint8 [H, W, 3] of any size.

    Its key comes from the seed and its pixels, so a result depends on neither order nor file name.
    """
    job, classifier = program.job, program.classifier
    seen = classifier.crop_and_resize(rgb)
    image = classifier.normalize(seen)
    key = photo_key(job.seed, seen)
    baseline_key, mask_key = jax.random.split(key)
    background = baseline(job.baseline, image, normalize=classifier.normalize, key=baseline_key)
    target = encode_target(job.target)
    start = time.perf_counter()
    outcome = jax.block_until_ready(program.run(classifier, image, background, target, mask_key))
    seconds = time.perf_counter() - start
    return Explanation(
        seen=seen,
        label=classifier.labels[int(outcome.target)],
        outcome=jax.tree_util.tree_map(np.asarray, outcome),
        key=tuple(map(int, jax.random.key_data(key))),
        seconds=seconds,
    )
