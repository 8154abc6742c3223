"""Reports of photos: prediction, heatmaps of several methods with their curves, a sanity check, an attention
graph. Every program is compiled once for a run, and every photo of the run goes through it.

`jaxplain.jobs.report_page` puts what comes out into words and pictures.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import check_choice, check_positive_int
from jaxplain.compare import METHODS, Evidence, choose_methods
from jaxplain.compare.program import (
    Program,
    at_size,
    compile_method,
    forgetful,
    measure,
    method_key,
    takes,
    values,
)
from jaxplain.compare.run import check_sizes
from jaxplain.jobs.photos import check_class, check_seed, photo_key
from jaxplain.jobs.records import told
from jaxplain.jobs.sag import SagExplanation, SagJob, SagProgram, compile_sag, explain_sag
from jaxplain.masks import Status
from jaxplain.metrics import Curves
from jaxplain.perturb import BASELINES, baseline
from jaxplain.zoo import Classifier

DEFAULT_METHODS = ("gradient", "smooth_grad", "integrated_gradients", "grad_cam", "igos", "igos++")
CONTROL = "edges"  # never asks the network, so that it must fail the sanity check
_CHECK = "parameter_randomization"

Tell = Callable[[str], None]


def _nobody(doing: str) -> None:
    """Hears what is being done, and keeps it to itself."""


@dataclass(frozen=True)
class ReportJob:
    """What to do with every photo of a run.

    Raises:
      ValueError, TypeError: an unknown name (says which come nearest) or a number that cannot be.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS  # of `jaxplain.compare.METHODS`
    size: int = 28  # rows and columns of the maps that are shown and measured
    target: int | None = None  # class index; None explains the top prediction of each photo
    baseline: str = "blur"
    seed: int = 0
    curve_steps: int = 50
    sanity: bool = True  # every map once more, of the network with all parameters shuffled
    sag: bool = True  # the attention graph

    def __post_init__(self) -> None:
        choose_methods(self.methods)
        check_positive_int(self.size, "size")
        check_positive_int(self.curve_steps, "curve_steps")
        check_choice(self.baseline, BASELINES, "baseline")
        check_seed(self.seed)


class ReportProgram(NamedTuple):
    """A job compiled for a classifier. What cannot be compiled is the reason why, for people."""

    job: ReportJob
    classifier: Classifier
    predict: Callable[..., Array]  # -> probabilities [K]
    methods: Mapping[str, Program | str]  # the control among them, where sanity is checked
    shuffled: Classifier | None  # the classifier that has forgotten everything; None: no sanity check
    sag: SagProgram | str | None
    compile_seconds: float


class Check(NamedTuple):
    """What became of a map in the network that has forgotten everything."""

    saliency: np.ndarray | None  # [size, size]; None where the method failed there
    rank: float  # |rank correlation| with the map of the network; 0 if flat, NaN if it cannot be told
    flat: bool  # nothing is left of the map


class Found(NamedTuple):
    """One method on one photo."""

    method: str
    reason: str = ""  # why there is no map; empty where there is one
    saliency: np.ndarray | None = None  # [size, size], as it is measured
    curves: Curves | None = None  # of NumPy arrays
    check: Check | None = None  # None: not asked for
    evaluations: int | None = None  # images scored by the model; None where the method does not say
    seconds: float = 0.0
    compile_seconds: float = 0.0


class PhotoReport(NamedTuple):
    """One explained photo."""

    seen: np.ndarray  # uint8 [H, W, 3], what the model saw of it
    target: int
    probabilities: np.ndarray  # [K]
    maps: tuple[Found, ...]  # in the order of the job's methods
    control: Found | None  # None: no sanity check
    sag: SagExplanation | str | None  # a string says why there is none; None: not asked for
    seconds: float


class _Subject(NamedTuple):
    """A photo as the programs take it."""

    image: Array  # [H, W, C]
    background: Array  # [H, W, C], the baseline
    target: Array  # int32 []
    key: Array


def check_fits(job: ReportJob, classifier: Classifier) -> None:
    """Refuse a job that a classifier cannot do, before minutes are spent on it.

    Raises:
      ValueError: the target is no class of it, or the maps are finer than its input.
    """
    check_class(job.target, len(classifier.labels))
    check_sizes([job.size], [classifier])


def compile_report(job: ReportJob, classifier: Classifier, tell: Tell = _nobody) -> ReportProgram:
    """Compile a job for a classifier: one program a method, for all photos and targets.

    Args:
      job: what to do.
      classifier: of the zoo.
      tell: hears what is being compiled.

    Raises:
      ValueError: the job does not fit the classifier; see `check_fits`.
    """
    check_fits(job, classifier)
    start = time.perf_counter()
    image = jax.ShapeDtypeStruct((*classifier.spec.size, 3), jnp.float32)
    predict = jax.jit(lambda model, image: jax.nn.softmax(model(image[None])[0])).lower(classifier, image)
    programs: dict[str, Program | str] = {}
    for name in dict.fromkeys([*job.methods, *([CONTROL] if job.sanity else [])]):
        tell(f"compiling {name}")
        size = job.size if takes(METHODS[name], "size") else None
        programs[name] = _or_reason(partial(compile_method, METHODS[name], classifier, size))
    sag: SagProgram | str | None = None
    if job.sag:
        tell("compiling the attention graph")
        graphs = SagJob(target=job.target, baseline=job.baseline, seed=job.seed)
        sag = _or_reason(partial(compile_sag, graphs, classifier))
    shuffled = forgetful(classifier, image, job.seed) if job.sanity else None
    run = predict.compile()
    return ReportProgram(job, classifier, run, programs, shuffled, sag, time.perf_counter() - start)


def explain_report(program: ReportProgram, rgb: np.ndarray, tell: Tell = _nobody) -> PhotoReport:
    """Everything about one photo, uint8 [H, W, 3] of any size.

    A method that fails is a `Found` with its reason; the others go on. Keys come from the seed, the photo's
    pixels and the method's name, as in `jaxplain.compare`, so that the figures are the same.
    """
    start = time.perf_counter()
    job, classifier = program.job, program.classifier
    seen = classifier.crop_and_resize(rgb)
    image = classifier.normalize(seen)
    probabilities = np.asarray(program.predict(classifier, image))
    target = int(probabilities.argmax()) if job.target is None else job.target
    baseline_key, key = jax.random.split(photo_key(job.seed, seen))
    background = baseline(job.baseline, image, normalize=classifier.normalize, key=baseline_key)
    subject = _Subject(image, background, jnp.int32(target), key)
    maps = []
    for name in job.methods:
        tell(name)
        maps.append(_found(program, name, subject))
    control = None
    if job.sanity:
        control = next((one for one in maps if one.method == CONTROL), None)
        control = control or _found(program, CONTROL, subject)
    sag = program.sag
    if isinstance(sag, SagProgram):
        tell("attention graph")
        fixed = sag._replace(job=replace(sag.job, target=target))
        found: Any = _or_reason(partial(explain_sag, fixed, rgb))
    else:
        found = sag
    seconds = time.perf_counter() - start
    return PhotoReport(seen, target, probabilities, tuple(maps), control, found, seconds)


def _or_reason(work: Callable[[], Any]) -> Any:
    """What comes of it, or why nothing does: a method of a user's own may raise anything."""
    try:
        return work()
    except Exception as error:
        return told(error)


def _found(program: ReportProgram, name: str, subject: _Subject) -> Found:
    """One method on one photo, failed or not."""
    compiled = program.methods[name]
    if isinstance(compiled, str):
        return Found(name, compiled)
    found = _or_reason(partial(_explained, program, name, compiled, subject))
    if isinstance(found, str):
        return Found(name, found, compile_seconds=compiled.compile_seconds)
    return found


def _explained(program: ReportProgram, name: str, compiled: Program, subject: _Subject) -> Found:
    job, classifier = program.job, program.classifier
    key = method_key(subject.key, name)
    start = time.perf_counter()
    explained = jax.block_until_ready(compiled.run(classifier, *subject[:3], key))
    seconds = time.perf_counter() - start
    status, evaluations = Status(int(explained.status)), int(explained.evaluations)
    blank = Found(
        name,
        evaluations=None if evaluations < 0 else evaluations,
        seconds=seconds,
        compile_seconds=compiled.compile_seconds,
    )
    saliency = at_size(np.asarray(explained.saliency), job.size)
    if status is not Status.OK:
        return blank._replace(reason=status.message)
    if np.ptp(saliency) == 0:
        return blank._replace(reason="the map is the same everywhere")
    measured = measure(classifier, *subject[:3], saliency, steps=job.curve_steps)
    curves = jax.tree_util.tree_map(np.asarray, measured.curves)
    check = None
    if program.shuffled is not None:
        again = partial(compiled.run, program.shuffled, *subject[:3], key)
        check = _check(saliency, _or_reason(again), Evidence(jnp.asarray(saliency), *measured))
    return blank._replace(saliency=saliency, curves=curves, check=check)


def _check(saliency: np.ndarray, again: Any, seen: Evidence) -> Check:
    """A map beside the one of the network that has forgotten everything."""
    if isinstance(again, str):
        return Check(None, float("nan"), False)
    other = at_size(np.asarray(again.saliency), len(saliency))
    rank = values(seen._replace(forgetful=jnp.asarray(other)), (_CHECK,))[_CHECK]
    return Check(other, float(rank), bool(np.ptp(other) == 0))
