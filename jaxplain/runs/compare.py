"""Comparisons of methods, with several measures and map sizes, in one reproducible table.

The outer loop is over photos: each photo is read and decoded once, and prepared once per classifier. Every
program is compiled once, on first use.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxplain
from jaxplain import metrics
from jaxplain.checks import check_choice, check_positive_int, check_seed
from jaxplain.explanation import Explanation, Status
from jaxplain.files import OutputError
from jaxplain.images import ImageError, check_white_level
from jaxplain.methods import METHODS, MethodSpec, as_spec, choose, takes
from jaxplain.perturb import BASELINES, resizing_matrix
from jaxplain.runs.heatmap_runs import check_size
from jaxplain.runs.measures import DEFAULT_MEASURES, MEASURES, MeasuredMap
from jaxplain.runs.photos import PhotoFile, read_file
from jaxplain.runs.records import error_line, number, numbers, weights_digest
from jaxplain.runs.sinks import FAILED, OK, MapFolder, Row, RowFile
from jaxplain.runs.step import Engine, Outcome, Step, View, check_classifier, explain_step
from jaxplain.runs.subject import method_key

Method = MethodSpec | Callable[..., Any]
OnProgress = Callable[[str, int], None]

DEFAULT_METHODS = tuple(
    name
    for name in (
        "random",
        "edges",
        "gradient",
        "integrated-gradients",
        "smooth-grad",
        "grad-cam",
        "meaningful-perturbation",
        "igos",
        "igos+",
        "igos++",
    )
    if name in METHODS
)


@dataclass(frozen=True)
class CompareSettings:
    """Settings shared by all rows of a comparison.

    Raises:
      ValueError, TypeError: a name is unknown (the message suggests the nearest) or a number is out of range.
    """

    measures: tuple[str, ...] = DEFAULT_MEASURES
    baseline: str = "blur"
    seed: int = 0
    curve_steps: int = 50
    white_level: float | None = None  # see `jaxplain.load_image`

    def __post_init__(self) -> None:
        check_white_level(self.white_level)
        for name in self.measures:
            check_choice(name, MEASURES, "measure")
        check_choice(self.baseline, BASELINES, "baseline")
        check_seed(self.seed)
        check_positive_int(self.curve_steps, "curve_steps")

    def record(self) -> dict[str, Any]:
        """Return the settings as stored in the results file."""
        return {
            "jaxplain": jaxplain.__version__,
            "measures": list(self.measures),
            "baseline": self.baseline,
            "seed": self.seed,
            "curve_steps": self.curve_steps,
            **({} if self.white_level is None else {"white_level": self.white_level}),
        }


class Comparison(NamedTuple):
    """A comparison's rows, ordered by classifier, size, method and photo."""

    settings: CompareSettings
    rows: list[Row]
    maps: MapFolder
    photos: dict[str, Path]  # keyed by the SHA-256 of the file, so copies are listed once
    sizes: tuple[int, ...]
    unreadable: list[str]  # the reason for each photo that could not be read


class _Task(NamedTuple):
    """A step and the sizes at which its map is measured."""

    method: str
    step: Step
    sizes: tuple[int, ...]


@dataclass
class _Job:
    """One classifier in a comparison, with its engine and tasks."""

    engine: Engine
    digest: str  # digest of the weights
    tasks: list[_Task]
    failed: dict[str, str] = field(default_factory=dict)  # reasons by name, for steps that cannot be compiled
    randomized: Any = None  # the classifier with all parameters shuffled

    def key(self, task: _Task, sha256: str, size: int) -> tuple[str, str, str, str, int]:
        return sha256, self.engine.classifier.name, self.digest, task.method, size


def compare(
    photos: Iterable[Path],
    classifiers: Sequence[Any],
    methods: Iterable[str] | Mapping[str, Method] | None = None,
    *,
    sizes: Sequence[int] = (28,),
    settings: CompareSettings | None = None,
    rows: RowFile | None = None,
    maps: MapFolder | None = None,
    keep_maps: int = 8,
    on_progress: OnProgress = lambda doing, rows: None,
) -> Comparison:
    """Run explanation methods on photos and measure the resulting maps.

    Args:
      photos: paths to photos; copies of the same photo count once.
      classifiers: classifiers from the zoo, or objects with the same attributes. The top prediction is
        explained.
      methods: names of registered methods, or a mapping from names to functions; see
        `jaxplain.explanation.Method` for the signature of a custom function. If None, the default methods
        are used.
      sizes: numbers of rows and columns at which maps are measured. A method that has no `size` option runs
        once per photo and its map is measured at every size.
      settings: the measures, baseline and seed.
      rows: where rows are stored; existing rows are not recomputed unless they failed.
      maps: where the first photos' maps are stored, for contact sheets.
      keep_maps: number of photos whose maps are kept.
      on_progress: called with a progress text and the number of rows completed since the last call.

    Returns:
      The comparison. If a method fails on a photo, its row has status "failed" and gives the reason; other
      rows are not affected.

    Raises:
      ValueError, TypeError: there is no photo, or none that can be read; a name is unknown; or a size is
        finer than a classifier's input.

    Example:
      >>> import jaxplain as jx
      >>> from jaxplain.methods import METHODS
      >>> from jaxplain.runs.compare import compare
      >>> def brightness(score, image, baseline):
      ...     return image.mean(-1)
      >>> comparison = compare(  # doctest: +SKIP
      ...     ["cat.jpg"], [jx.zoo.load("efficientnet-lite0")], METHODS | {"brightness": brightness}
      ... )
    """
    settings = CompareSettings() if settings is None else settings
    chosen = choose_methods(methods)
    sizes = tuple(dict.fromkeys(check_positive_int(size, "size") for size in sizes))
    check_sizes(sizes, classifiers)
    rows = RowFile(None, settings.record()) if rows is None else rows
    maps = MapFolder(None) if maps is None else maps
    jobs = [_job(classifier, chosen, sizes, settings) for classifier in classifiers]
    run = _Run(settings, jobs, rows, maps, keep_maps, on_progress)
    paths = list(map(Path, photos))
    if not paths:
        raise ValueError("no photos were given: photos must contain at least one path.")
    for path in paths:
        run.photo(path)
    if not run.photos:
        raise ValueError(f"no photo can be read ({len(paths)} tried): {run.unreadable[0]}")
    return _comparison(run, chosen, sizes)


def choose_methods(methods: Iterable[str] | Mapping[str, Method] | None) -> dict[str, MethodSpec]:
    """Return methods by name, given names of registered methods or a mapping from names to functions.

    Raises:
      ValueError: there is no method, or one is unknown (the message suggests the nearest).
      TypeError: a method is not a function.
    """
    if not isinstance(methods, Mapping):
        return choose(DEFAULT_METHODS if methods is None else methods)
    return {name: as_spec(method, name) for name, method in choose(methods, methods).items()}  # type: ignore[arg-type]


def check_sizes(sizes: Sequence[int], classifiers: Sequence[Any]) -> None:
    """Raise a ValueError or TypeError unless there are sizes and classifiers that all fit each other."""
    if not sizes or not classifiers:
        raise ValueError("a comparison needs at least one size and one classifier.")
    for classifier in classifiers:
        check_classifier(classifier)
        check_size(max(sizes), classifier)


def planned_rows(
    methods: Mapping[str, Any], sizes: Sequence[int], classifiers: Sequence[Any], photos: int
) -> int:
    """Return the number of rows in a full comparison."""
    return len(methods) * len(sizes) * len(classifiers) * photos


def finished_part(
    photos: Iterable[Path],
    classifiers: Sequence[Any],
    methods: Mapping[str, MethodSpec],
    *,
    sizes: Sequence[int],
    settings: CompareSettings,
    rows: RowFile,
    maps: MapFolder,
) -> Comparison:
    """Return the finished rows of an interrupted comparison; see `compare` for the arguments."""
    jobs = [_job(classifier, methods, tuple(sizes), settings) for classifier in classifiers]
    run = _Run(settings, jobs, rows, maps, 0, lambda doing, rows: None)
    for path in photos:
        run.read(Path(path))
    return _comparison(run, methods, tuple(sizes))


def photo_pixels(comparison: Comparison, classifier: Any, sha256: str) -> np.ndarray:
    """Return one of the comparison's photos as the classifier sees it, uint8 [H, W, 3], for contact sheets.

    Raises:
      ImageError: the photo's file can no longer be read.
    """
    file = read_file(comparison.photos[sha256])
    return classifier.crop_and_resize(file.decode(comparison.settings.white_level).rgb)


# ---------------------------------------------------------------------------------------------------------
# The run


class _Run:
    """Runs all classifiers and methods on photos and stores the rows."""

    def __init__(
        self,
        settings: CompareSettings,
        jobs: list[_Job],
        rows: RowFile,
        maps: MapFolder,
        keep_maps: int,
        on_progress: OnProgress,
    ) -> None:
        self.settings, self.jobs, self.rows, self.maps = settings, jobs, rows, maps
        self.keep_maps, self.on_progress = keep_maps, on_progress
        self.photos: dict[str, Path] = {}
        self.unreadable: list[str] = []

    def read(self, path: Path) -> PhotoFile | None:
        """Read a file; return None if it cannot be read or is a copy of an earlier file."""
        try:
            file = read_file(path)
        except ImageError as error:
            self.unreadable.append(str(error))
            return None
        if file.sha256 in self.photos:
            return None
        self.photos[file.sha256] = path
        return file

    def photo(self, path: Path) -> None:
        """Compute the missing rows of one photo."""
        file = self.read(path)
        keeps = len(self.photos) <= self.keep_maps
        missing = []
        for job in self.jobs:
            for task in job.tasks:
                if file is None or self._done(job, task, file.sha256, keeps):
                    self.on_progress(path.name, len(task.sizes))
                else:
                    missing.append((job, task))
        if file is None or not missing:
            return
        try:
            rgb = file.decode(self.settings.white_level).rgb
        except ImageError as error:
            del self.photos[file.sha256]
            self.unreadable.append(str(error))
            self.on_progress(path.name, sum(len(task.sizes) for _, task in missing))
            return
        views: dict[int, View] = {}
        for job, task in missing:
            for row in self._explained(job, task, file, rgb, views, keeps):
                self.rows.add(row)
            self.on_progress(path.name, len(task.sizes))

    def _done(self, job: _Job, task: _Task, sha256: str, keeps: bool) -> bool:
        keys = [job.key(task, sha256, size) for size in task.sizes]
        return all(self.rows.done(key) and (not keeps or self.maps.get(key) is not None) for key in keys)

    def _explained(
        self, job: _Job, task: _Task, file: PhotoFile, rgb: np.ndarray, views: dict[int, View], keeps: bool
    ) -> list[Row]:
        """Return the rows for one photo and method, one per size."""
        name = job.engine.classifier.name
        blank = [
            Row(file.path.name, file.sha256, name, job.digest, task.method, size, FAILED)
            for size in task.sizes
        ]
        try:
            if not self._compiled(job, task):
                return [replace(row, reason=job.failed[task.step.name]) for row in blank]
            self.on_progress(f"{task.method} {file.path.name}", 0)
            if id(job) not in views:
                views[id(job)] = job.engine.view(rgb)
            return list(self._measured(job, task, views[id(job)], blank, keeps))
        except OutputError:  # nothing more can be stored, so end the run
            raise
        except Exception as error:  # a custom method may raise anything; the error is recorded in its rows
            return [replace(row, reason=error_line(error)) for row in blank]

    def _compiled(self, job: _Job, task: _Task) -> bool:
        """Compile the task's step if it is not compiled yet; return False if compilation fails."""
        if task.step.name not in job.failed and not job.engine.knows(task.step):
            self.on_progress(f"compiling {task.method}", 0)
            try:
                job.engine.compile(task.step)
            except Exception as error:
                job.failed[task.step.name] = error_line(error)
        return task.step.name not in job.failed

    def _measured(self, job: _Job, task: _Task, view: View, blank: list[Row], keeps: bool) -> Iterator[Row]:
        outcome = job.engine.run(task.step, view)
        explanation: Explanation = outcome.value
        others = _other_maps(job, task, view, self.settings)
        status = Status(int(explanation.status))
        for row in blank:
            row = _described(row, job.engine.label(view), view, outcome)
            importance = at_size(explanation.importance, row.size)
            if status is not Status.OK:
                yield replace(row, reason=status.message)
            elif np.ptp(importance) == 0:
                yield replace(row, reason="the map is constant")
            else:
                if keeps:
                    self.maps.add(row.key, importance)
                yield self._with_values(job, view, row, importance, others)

    def _with_values(
        self, job: _Job, view: View, row: Row, importance: np.ndarray, others: dict[str, np.ndarray]
    ) -> Row:
        curves, confidence = job.engine.measure(view, importance, self.settings.curve_steps)
        resized = {name: jnp.asarray(at_size(other, row.size)) for name, other in others.items()}
        values = measure_map(
            MeasuredMap(jnp.asarray(importance), curves, confidence, **resized), self.settings.measures
        )
        return replace(
            row,
            status=OK,
            values={name: number(values[name]) for name in self.settings.measures},
            fraction=numbers(curves.fraction),
            deletion=numbers(curves.deletion),
            insertion=numbers(curves.insertion),
        )


def _job(
    classifier: Any, methods: Mapping[str, MethodSpec], sizes: tuple[int, ...], settings: CompareSettings
) -> _Job:
    engine = Engine(classifier, baseline=settings.baseline, seed=settings.seed)
    tasks = []
    for name, spec in methods.items():
        if takes(spec.function, "size"):
            tasks += [_Task(name, explain_step(name, spec, {"size": size}), (size,)) for size in sizes]
        else:
            tasks.append(_Task(name, explain_step(name, spec, {}), sizes))
    return _Job(engine, weights_digest(classifier), tasks)


def _comparison(run: _Run, methods: Mapping[str, Any], sizes: tuple[int, ...]) -> Comparison:
    known = {row.key: row for row in run.rows}
    keys = [
        (sha256, job.engine.classifier.name, job.digest, name, size)
        for job in run.jobs
        for size in sizes
        for name in methods
        for sha256 in run.photos
    ]
    rows = [known[key] for key in keys if key in known]
    return Comparison(run.settings, rows, run.maps, run.photos, sizes, run.unreadable)


def _described(row: Row, label: str, view: View, outcome: Outcome) -> Row:
    evaluations = int(outcome.value.evaluations)
    return replace(
        row,
        label=label,
        probability=number(view.probability),
        seconds=round(outcome.seconds, 4),
        evaluations=None if evaluations < 0 else evaluations,
    )


def _other_maps(job: _Job, task: _Task, view: View, settings: CompareSettings) -> dict[str, np.ndarray]:
    """Compute the additional maps that the measures need, with the same program."""
    engine, needs = job.engine, {MEASURES[name].needs for name in settings.measures}
    others = {}
    if "randomized" in needs:
        if job.randomized is None:
            job.randomized = randomized(engine.classifier, view.subject.image, settings.seed)
        others["randomized"] = engine.run(task.step, view, job.randomized).value.importance
    if "other_class" in needs:
        target = _other_class(view, len(engine.classifier.labels))
        other = view._replace(subject=view.subject._replace(target=target))
        others["other_class"] = engine.run(task.step, other).value.importance
    return others


def _other_class(view: View, classes: int) -> Array:
    """Pick one of the other classes at random."""
    step = jax.random.randint(method_key(view.subject.key, "other class"), (), 1, classes, jnp.int32)
    return ((view.subject.target + step) % classes).astype(jnp.int32)


def randomized(classifier: Any, image: Array, seed: int) -> Any:
    """Return the classifier with all parameters shuffled; of `image` [H, W, C], only the shape is used."""
    first = metrics.layer_names(classifier, image)[-1]
    [copy] = metrics.randomize(classifier, image, key=jax.random.key(seed), layers=[first])
    return copy.classifier


def at_size(importance: Any, size: int) -> np.ndarray:
    """Resize a map [h, w] to [size, size] as `jaxplain.perturb.resize_map` does, on the host."""
    rows, cols = (resizing_matrix(side, size).astype(np.float64) for side in importance.shape)
    return np.asarray(rows @ np.asarray(importance, np.float64) @ cols.T, np.float32)


@partial(jax.jit, static_argnames="names")
def measure_map(measured: MeasuredMap, names: tuple[str, ...]) -> dict[str, Array]:
    """Compute the named measures for one map."""
    return {name: MEASURES[name].compute(measured) for name in names}
