"""Compute reports on photos.

A report has the prediction, heatmaps from several methods with their curves, a sanity check, and an attention
graph. All of them explain the same subject: one target, one baseline and one key per photo.

`jaxplain.report.document` turns the results into a page.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import check_choice, check_positive_int, check_seed
from jaxplain.explanation import Explanation, Status
from jaxplain.methods import MethodSpec, choose
from jaxplain.metrics import Curves
from jaxplain.perturb import BASELINES
from jaxplain.runs.compare import at_size, measure_map, randomized
from jaxplain.runs.graph_runs import GraphedPhoto, GraphProgram, GraphSettings, compile_graphs, graph_view
from jaxplain.runs.heatmap_runs import check_size
from jaxplain.runs.measures import MeasuredMap
from jaxplain.runs.records import error_line
from jaxplain.runs.step import Engine, Outcome, Step, View, explain_step
from jaxplain.runs.subject import Subject
from jaxplain.scores import as_logits, probabilities

DEFAULT_METHODS = ("gradient", "smooth-grad", "integrated-gradients", "grad-cam", "igos", "igos++")
CONTROL = "edges"  # does not use the network, so it must fail the sanity check

OnProgress = Callable[[str], None]


def _ignore(doing: str) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class ReportSettings:
    """Settings applied to every photo of a run.

    Raises:
      ValueError, TypeError: a name is unknown (the message suggests the nearest) or a number is out of range.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS  # names of registered methods
    size: int = 28  # rows and columns of the maps as shown and measured
    target: int | None = None  # class index; if None, each photo's top prediction
    baseline: str = "blur"
    seed: int = 0
    curve_steps: int = 50
    sanity: bool = True  # whether to also explain the network with all parameters shuffled
    sag: bool = True  # whether to include the attention graph

    def __post_init__(self) -> None:
        choose(self.methods)
        check_positive_int(self.size, "size")
        check_positive_int(self.curve_steps, "curve_steps")
        check_choice(self.baseline, BASELINES, "baseline")
        check_seed(self.seed)


class ReportProgram(NamedTuple):
    """Programs compiled for a classifier; a part that cannot be compiled is a string with the reason."""

    settings: ReportSettings
    engine: Engine
    specs: Mapping[str, MethodSpec]  # including the control if the sanity check is requested
    steps: Mapping[str, Step | str]
    graphs: GraphProgram | str | None  # None if not requested
    compile_seconds: float


class SanityCheck(NamedTuple):
    """A method's map for the network with shuffled parameters, compared with its map for the trained one."""

    importance: np.ndarray | None  # [size, size]; None if the method failed on the shuffled network
    similarity: float  # |rank correlation| of the two maps; 0 if `constant`, NaN if unknown
    constant: bool  # whether the shuffled network's map is constant


class MethodReport(NamedTuple):
    """The results of one method on one photo."""

    method: str
    reason: str = ""  # why there is no map; empty if there is one
    importance: np.ndarray | None = None  # [size, size], as shown and measured
    curves: Curves | None = None  # with NumPy arrays
    check: SanityCheck | None = None  # None if not requested
    evaluations: int | None = None  # number of images passed through the model; None if unknown
    seconds: float = 0.0
    compile_seconds: float = 0.0


class PhotoReport(NamedTuple):
    """The complete results for one photo."""

    view: View
    probabilities: np.ndarray  # [K]
    methods: tuple[MethodReport, ...]  # in the order of the settings
    control: MethodReport | None  # None if the sanity check is not requested
    graph: GraphedPhoto | str | None  # a string gives the reason why there is no graph; None if not requested
    seconds: float


def check_report(settings: ReportSettings, classifier: Any) -> None:
    """Reject settings that do not fit a classifier, before starting a long computation.

    Raises:
      ValueError: the target is not one of the classifier's classes, or the maps are finer than the
        classifier's input.
    """
    Engine(classifier).check_target(settings.target)
    check_size(settings.size, classifier)


def compile_report(
    settings: ReportSettings, classifier: Any, on_progress: OnProgress = _ignore
) -> ReportProgram:
    """Compile the programs of a report for a classifier: one per method, for all photos and targets.

    Args:
      settings: settings of the report.
      classifier: a classifier from the zoo.
      on_progress: called with the name of each program before it is compiled.

    Raises:
      ValueError: the settings do not fit the classifier; see `check_report`.
    """
    check_report(settings, classifier)
    start = time.perf_counter()
    engine = Engine(classifier, baseline=settings.baseline, seed=settings.seed)
    specs = choose([*settings.methods, *([CONTROL] if settings.sanity else [])])
    engine.compile(_PROBABILITIES)
    steps: dict[str, Step | str] = {}
    for name, spec in specs.items():
        on_progress(f"compiling {name}")
        step = explain_step(name, spec, {"size": settings.size})
        steps[name] = _or_reason(partial(_compiled, engine, step, settings))
    graphs: GraphProgram | str | None = None
    if settings.sag:
        on_progress("compiling the attention graph")
        shared = GraphSettings(target=settings.target, baseline=settings.baseline, seed=settings.seed)
        graphs = _or_reason(partial(compile_graphs, shared, classifier, engine))
    return ReportProgram(settings, engine, specs, steps, graphs, time.perf_counter() - start)


def report_photo(program: ReportProgram, rgb: np.ndarray, on_progress: OnProgress = _ignore) -> PhotoReport:
    """Compute all requested parts of the report on one photo (uint8 [H, W, 3], any size).

    If a method fails, its `MethodReport` gives the reason; the other methods are not affected. Maps and
    measures are the same as from `jaxplain explain` and `jaxplain compare` with the same seed.
    """
    start = time.perf_counter()
    settings, engine = program.settings, program.engine
    view = engine.view(rgb, settings.target)
    probabilities = engine.run(_PROBABILITIES, view).value
    shuffled = randomized(engine.classifier, view.subject.image, settings.seed) if settings.sanity else None
    reports: dict[str, MethodReport] = {}
    for name in program.steps:
        on_progress(name)
        reports[name] = _method_report(program, name, view, shuffled)
    graph: Any = program.graphs
    if isinstance(graph, GraphProgram):
        on_progress("attention graph")
        graph = _or_reason(partial(graph_view, graph, view))
    return PhotoReport(
        view=view,
        probabilities=probabilities,
        methods=tuple(reports[name] for name in choose(settings.methods)),
        control=reports[CONTROL] if settings.sanity else None,
        graph=graph,
        seconds=time.perf_counter() - start,
    )


def _probabilities(classifier: Any, subject: Subject) -> Array:
    images = subject.image[None]
    return probabilities(as_logits(classifier(images), images))[0]


_PROBABILITIES = Step("probabilities", _probabilities)


def _compiled(engine: Engine, step: Step, settings: ReportSettings) -> Step:
    program = engine.compile(step)
    if program.shapes.importance.shape == (settings.size, settings.size):
        # All maps are measured by the same program; compile it before the first photo.
        engine.compile(step, n_steps=settings.curve_steps, confidence=False)
    return step


def _or_reason(work: Callable[[], Any]) -> Any:
    """Return the result of `work`, or the error as a string, because a custom method may raise anything."""
    try:
        return work()
    except Exception as error:
        return error_line(error)


def _method_report(program: ReportProgram, name: str, view: View, shuffled: Any) -> MethodReport:
    """Run one method on one photo, then measure and check its map."""
    step = program.steps[name]
    if isinstance(step, str):
        return MethodReport(name, step)
    report = _or_reason(partial(_explained, program, name, step, view, shuffled))
    return MethodReport(name, report) if isinstance(report, str) else report


def _explained(program: ReportProgram, name: str, step: Step, view: View, shuffled: Any) -> MethodReport:
    settings, engine = program.settings, program.engine
    outcome: Outcome = engine.run(step, view)
    explanation: Explanation = outcome.value
    status, evaluations = Status(int(explanation.status)), int(explanation.evaluations)
    report = MethodReport(
        name,
        evaluations=None if evaluations < 0 else evaluations,
        seconds=outcome.seconds,
        compile_seconds=engine.compile(step).compile_seconds,
    )
    if status is not Status.OK:
        return report._replace(reason=status.message)
    importance = at_size(explanation.importance, settings.size)
    if np.ptp(importance) == 0:
        return report._replace(reason="the map is constant")
    curves = engine.measure(view, importance, settings.curve_steps, confidence=False).curves
    check = None
    if shuffled is not None:
        other = _or_reason(partial(engine.run, step, view, shuffled))
        check = _sanity_check(importance, curves, other)
    return report._replace(importance=importance, curves=curves, check=check)


def _sanity_check(importance: np.ndarray, curves: Curves, other: Outcome | str) -> SanityCheck:
    if isinstance(other, str):
        return SanityCheck(None, float("nan"), False)
    resized = at_size(other.value.importance, len(importance))
    both = MeasuredMap(jnp.asarray(importance), curves, None, randomized=jnp.asarray(resized))
    name = "parameter_randomization"
    return SanityCheck(resized, float(measure_map(both, (name,))[name]), bool(np.ptp(resized) == 0))
