"""Compute heatmaps of photos with any registered method, for `jaxplain explain` and `jaxplain demo`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxplain import funnel, masks
from jaxplain.checks import as_pair, check_choice, check_positive_int, check_seed
from jaxplain.explanation import Explanation, Status
from jaxplain.methods import METHODS, MethodSpec, parameters, takes
from jaxplain.metrics import Curves
from jaxplain.perturb import BASELINES, resize_map
from jaxplain.runs.photos import Photo
from jaxplain.runs.records import details, npy, number, numbers, origin, plain, to_json
from jaxplain.runs.step import Engine, Program, View, explain_step
from jaxplain.scores import KINDS, ScoreKind, kind_of_probability

RECORD = "result.json"  # the file that marks a folder as a result
PRESETS = ("default", "paper")


@dataclass(frozen=True)
class HeatmapSettings:
    """Settings applied to every photo of a run.

    Raises:
      ValueError, TypeError: a name is unknown (the message suggests the nearest) or a number is out of range.
    """

    method: str = "igos++"
    options: Mapping[str, Any] = field(default_factory=dict)  # the method's options, without `key`
    preset: str = "default"  # "paper" selects the published settings, which `options` override
    target: int | None = None  # class index; if None, each photo's top prediction
    baseline: str = "blur"
    kind: ScoreKind | None = None  # which score is explained; if None, the class's probability
    seed: int = 0
    curve_steps: int = 50

    def __post_init__(self) -> None:
        check_choice(self.method, METHODS, "method")
        check_choice(self.baseline, BASELINES, "baseline")
        if self.kind is not None:
            check_choice(self.kind, KINDS, "score kind")
        check_choice(self.preset, PRESETS, "preset")
        check_positive_int(self.curve_steps, "curve_steps")
        check_seed(self.seed)
        if self.preset == "paper":
            self._check_published()
        for name in self.options:
            if name != "batch_size" and not takes(self.spec.function, name):
                self._refuse(name)
        chosen = self.parameters
        for name in ("iterations", "n_steps", "n_samples", "batch_size"):
            if isinstance(chosen.get(name), int):
                check_positive_int(chosen[name], name)
        if "size" in chosen:
            as_pair(chosen["size"], "size")

    def _check_published(self) -> None:
        if self.method not in masks.PAPER:
            raise ValueError(
                f"no published settings exist for {self.method}, only for {', '.join(masks.PAPER)}: "
                "omit --preset."
            )

    def _refuse(self, option: str) -> None:
        """Raise the registry's error for an unknown option, or a clearer one for another method's option."""
        if any(option in parameters(spec, {}) for spec in METHODS.values()):
            own = ", ".join(parameters(self.spec, {})) or "none"
            raise ValueError(f"{self.method} has no option {option}; its options are: {own}.")
        parameters(self.spec, {option: None})

    @property
    def spec(self) -> MethodSpec:
        """The method's entry in the registry."""
        return METHODS[self.method]

    @property
    def given(self) -> dict[str, Any]:
        """The options that the method is called with: the preset's options, overridden by the user's."""
        return {**(masks.PAPER[self.method] if self.preset == "paper" else {}), **self.options}

    @property
    def parameters(self) -> dict[str, Any]:
        """All of the method's options, including defaults and the platform's batch size."""
        chosen = parameters(self.spec, self.given)
        batch_size = chosen.get("batch_size")
        return chosen | {"batch_size": funnel.default_batch_size() if batch_size is None else batch_size}


class HeatmapProgram(NamedTuple):
    """Programs compiled for a classifier and reused for every photo in a run."""

    settings: HeatmapSettings
    engine: Engine
    program: Program
    compile_seconds: float


class ExplainedPhoto(NamedTuple):
    """One explained photo."""

    view: View
    label: str
    explanation: Explanation  # with NumPy arrays
    curves: Curves  # curves of the probability, at the map's own resolution
    seconds: float  # run time of the compiled method

    @property
    def status(self) -> Status:
        """The explanation's status."""
        return Status(int(self.explanation.status))


def check_fits(settings: HeatmapSettings, classifier: Any) -> None:
    """Reject settings that do not fit a classifier, before starting a long computation.

    Raises:
      ValueError: the target is not one of the classifier's classes, or the map is finer than the
        classifier's input.
    """
    Engine(classifier).check_target(settings.target)
    if "size" in settings.parameters:
        check_size(settings.parameters["size"], classifier)


def check_size(size: int | tuple[int, int], classifier: Any) -> None:
    """Raise a ValueError if a map of this size (rows and columns) is finer than the classifier's input."""
    (rows, cols), (height, width) = as_pair(size, "size"), classifier.spec.size
    if rows > height or cols > width:
        raise ValueError(
            f"size {rows} x {cols} is finer than the input of {classifier.name}, {height} x {width} pixels; "
            "choose a smaller size."
        )


def compile_heatmaps(settings: HeatmapSettings, classifier: Any) -> HeatmapProgram:
    """Compile the programs for these settings and a classifier, for use with all photos and targets.

    Raises:
      ValueError: the settings do not fit the classifier; see `check_fits`.
    """
    check_fits(settings, classifier)
    batch_size = settings.options.get("batch_size")
    engine = Engine(classifier, baseline=settings.baseline, seed=settings.seed, batch_size=batch_size)
    step = explain_step(settings.method, settings.spec, settings.given, kind=settings.kind)
    program = engine.compile(step, n_steps=settings.curve_steps)
    return HeatmapProgram(settings, engine, program, engine.compile_seconds)


def explain_photo(program: HeatmapProgram, rgb: np.ndarray) -> ExplainedPhoto:
    """Explain one photo (uint8 [H, W, 3], any size).

    The random key depends only on the seed and the pixels, so the result does not depend on the order of the
    photos or on their file names.
    """
    settings, engine = program.settings, program.engine
    view = engine.view(rgb, settings.target)
    outcome = engine.run(program.program.step, view)
    importance = outcome.value.importance
    curves = engine.measure(view, importance, settings.curve_steps, confidence=False).curves
    return ExplainedPhoto(view, engine.label(view), outcome.value, curves, outcome.seconds)


def heatmap_files(program: HeatmapProgram, photo: Photo, explained: ExplainedPhoto) -> dict[str, bytes]:
    """Return the files of a result, except for the images.

    The files are importance.npy [h, w] (at the method's own resolution) and saliency.npy [H, W] (at the
    image's resolution), both float32 raw values, and result.json, which records how they were made.
    """
    importance = explained.explanation.importance
    saliency = np.asarray(resize_map(importance, explained.view.pixels.shape[:2]), np.float32)
    return {
        "importance.npy": npy(importance),
        "saliency.npy": npy(saliency),
        RECORD: to_json(_record(program, photo, explained)),
    }


def _record(program: HeatmapProgram, photo: Photo, explained: ExplainedPhoto) -> dict[str, Any]:
    settings, classifier = program.settings, program.engine.classifier
    explanation, curves, view = explained.explanation, explained.curves, explained.view
    return {
        **origin(photo),
        "method": settings.method,
        "preset": settings.preset,
        "parameters": plain(settings.parameters),
        "model": classifier.name,
        "input_size": list(classifier.spec.size),
        "target": {"index": view.target, "label": explained.label},
        "score": settings.kind or kind_of_probability(classifier),
        "baseline": settings.baseline,
        "seed": settings.seed,
        "key": jax.random.key_data(view.subject.key).tolist(),
        "status": explained.status.name.lower(),
        "probability": number(view.probability),
        "deletion_auc": number(curves.deletion_auc),
        "insertion_auc": number(curves.insertion_auc),
        "curves": {
            "score": kind_of_probability(classifier),
            "baseline": settings.baseline,
            "n_steps": settings.curve_steps,
            "fraction": numbers(curves.fraction),
            "deletion": numbers(curves.deletion),
            "insertion": numbers(curves.insertion),
        },
        "details": details(explanation.details),
        "model_evaluations": int(explanation.evaluations),
        "seconds": {"compile": round(program.compile_seconds, 3), "run": round(explained.seconds, 3)},
    }
