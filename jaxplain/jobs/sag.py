"""Attention graphs of photos: one compiled program for a run, and every photo of the run through it.

The search is a pure function of a score (`jaxplain.sag`); `jaxplain.jobs.sag_files` writes what comes out.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import sag
from jaxplain.checks import check_choice, check_positive_int
from jaxplain.jobs.photos import check_class, check_seed, decode_target, encode_target, photo_key
from jaxplain.perturb import BASELINES, baseline
from jaxplain.scores import KINDS, class_score
from jaxplain.zoo import Classifier

EXPAND_ABOVE = 0.4  # share of the image's score
MAX_CHILDREN = 3  # of a node that are drawn


@dataclass(frozen=True)
class SagJob:
    """What to do with every photo of a run.

    Raises:
      ValueError, TypeError: an unknown name (says which come nearest) or a number that cannot be.
    """

    grid: tuple[int, int] = (7, 7)
    beam_width: int = 5
    candidates: int | None = 15  # patches that each set proposes; None: all
    threshold: float = 0.9
    max_size: int = 20
    max_roots: int = 30
    max_overlap: int = 1  # patches that two explanations of the graph may share
    shown: int = 3  # explanations in the graph, at most
    target: int | None = None  # class index; None explains the top prediction of each photo
    baseline: str = "blur"
    kind: str = "probability"  # of the score
    seed: int = 0  # of a random baseline
    batch_size: int | None = None  # images per model call; None chooses by platform

    def __post_init__(self) -> None:
        check_choice(self.baseline, BASELINES, "baseline")
        check_choice(self.kind, KINDS, "score kind")
        check_seed(self.seed)
        for name in ("beam_width", "max_size", "max_roots", "shown"):
            check_positive_int(getattr(self, name), name)
        for name in ("candidates", "batch_size"):
            if getattr(self, name) is not None:
                check_positive_int(getattr(self, name), name)
        for side in self.grid:
            check_positive_int(side, "grid")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {self.threshold}.")
        if self.max_overlap < 0:
            raise ValueError(f"max_overlap must be at least 0, got {self.max_overlap}.")


class Outcome(NamedTuple):
    """What the compiled program returns for one photo."""

    target: Array  # int32 [], the explained class
    probability: Array  # [], its softmax probability on the photo
    roots: sag.SufficientSets


class SagProgram(NamedTuple):
    """A job compiled for a classifier; every photo of a run goes through it."""

    job: SagJob
    classifier: Classifier
    run: Callable[..., Outcome]
    compile_seconds: float


class SagExplanation(NamedTuple):
    """One explained photo."""

    seen: np.ndarray  # uint8 [H, W, 3], what the model saw of it
    hidden: np.ndarray  # uint8 [H, W, 3], the baseline as a picture
    label: str
    target: int
    probability: float
    roots: sag.SufficientSets  # all that were found
    diverse: sag.DiverseSubset  # the largest subset that hardly overlaps
    graph: sag.AttentionGraph  # of the first few of it
    summary: sag.Summary
    key: tuple[int, ...]  # data of the photo's random key
    seconds: dict[str, float]  # "search" and "graph"

    @property
    def status(self) -> sag.Status:
        """How the search ended."""
        return sag.Status(int(self.roots.status))


def check_fits(job: SagJob, classifier: Classifier) -> None:
    """Refuse a job that a classifier cannot do, before minutes are spent on it.

    Raises:
      ValueError: the target is no class of it, or the grid is finer than its input.
    """
    check_class(job.target, len(classifier.labels))
    (rows, cols), (height, width) = job.grid, classifier.spec.size
    if rows > height or cols > width:
        raise ValueError(
            f"a grid of {rows} x {cols} is finer than the input of {classifier.name}, "
            f"{height} x {width} pixels; choose at most that, usually 7 to 14."
        )


def compile_sag(job: SagJob, classifier: Classifier) -> SagProgram:
    """Compile a job for a classifier: one program for all photos and targets.

    Raises:
      ValueError: the job does not fit the classifier; see `check_fits`.
    """
    check_fits(job, classifier)
    image = jax.ShapeDtypeStruct((*classifier.spec.size, 3), jnp.float32)
    target = jax.ShapeDtypeStruct((), jnp.int32)
    start = time.perf_counter()
    run = jax.jit(partial(_search, job)).lower(classifier, image, image, target).compile()
    _compile_graph(job, classifier)
    return SagProgram(job, classifier, run, time.perf_counter() - start)


def _compile_graph(job: SagJob, classifier: Classifier) -> None:
    """Grow a graph of two nodes, so that no photo has to wait for the graph's own program."""
    blank = jnp.zeros((*classifier.spec.size, 3), jnp.float32)
    patches = job.grid[0] * job.grid[1]
    one = jnp.float32(1)
    roots = sag.SufficientSets(
        sets=jnp.arange(patches)[None] == 0,
        scores=one[None],
        relative=one[None],
        sizes=jnp.ones(1, jnp.int32),
        valid=jnp.ones(1, bool),
        image_score=one,
        baseline_score=one,
        threshold=one,
        levels=jnp.int32(1),
        evaluations=jnp.int32(0),
        status=jnp.int32(0),
        grid=job.grid,
    )
    _graph(job, classifier, 0, blank, blank, roots)


def _search(job: SagJob, classifier: Classifier, image: Array, background: Array, target: Array) -> Outcome:
    target = decode_target(target, classifier, image)
    score = class_score(classifier, target, job.kind)  # type: ignore[arg-type]
    options: dict[str, Any] = {"grid": job.grid, "batch_size": job.batch_size}
    if job.candidates is not None:
        proposal = sag.proposal_map(score, image, background, **options)
        options |= {"proposal": proposal, "candidates": job.candidates}
    roots = sag.search(
        score,
        image,
        background,
        beam_width=job.beam_width,
        threshold=job.threshold,
        max_size=job.max_size,
        max_roots=job.max_roots,
        **options,
    )
    if job.kind == "probability":
        return Outcome(target, roots.image_score, roots)
    return Outcome(target, class_score(classifier, target)(image[None])[0], roots)


def explain_sag(program: SagProgram, rgb: np.ndarray) -> SagExplanation:
    """Explain one photo, uint8 [H, W, 3] of any size."""
    job, classifier = program.job, program.classifier
    seen = classifier.crop_and_resize(rgb)
    image = classifier.normalize(seen)
    key = photo_key(job.seed, seen)
    background = baseline(job.baseline, image, normalize=classifier.normalize, key=key)
    start = time.perf_counter()
    found = jax.block_until_ready(program.run(classifier, image, background, encode_target(job.target)))
    searched = time.perf_counter()
    diverse = sag.diverse_subset(found.roots, job.max_overlap)
    graph = _graph(job, classifier, int(found.target), image, background, _first(diverse.roots, job.shown))
    seconds = {"search": searched - start, "graph": time.perf_counter() - searched}
    return SagExplanation(
        seen=seen,
        hidden=np.clip(np.rint(classifier.denormalize(background)), 0, 255).astype(np.uint8),
        label=classifier.labels[int(found.target)],
        target=int(found.target),
        probability=float(found.probability),
        roots=found.roots,
        diverse=diverse,
        graph=graph,
        summary=sag.summarize(found.roots, graph),
        key=tuple(map(int, jax.random.key_data(key))),
        seconds=seconds,
    )


def _graph(
    job: SagJob,
    classifier: Classifier,
    target: int,
    image: Array,
    background: Array,
    roots: sag.SufficientSets,
) -> sag.AttentionGraph:
    score = class_score(classifier, target, job.kind)  # type: ignore[arg-type]
    return sag.graph(score, image, background, roots, expand_above=EXPAND_ABOVE, batch_size=job.batch_size)


def _first(roots: sag.SufficientSets, count: int) -> sag.SufficientSets:
    """Only the first valid rows: the smallest explanations, of equal size those of highest score."""
    return replace(roots, valid=roots.valid & (jnp.cumsum(roots.valid) <= count))
