"""The run engine: compiles steps for one classifier and runs them on photos.

A run combines subjects (`Subject`), steps (`Step`) and a sink. The engine makes the subjects and runs the
steps; sinks are in `jaxplain.runs.sinks`.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import metrics
from jaxplain.checks import check_batch_size, check_choice, check_positive_int, check_seed, check_target
from jaxplain.explanation import Explanation
from jaxplain.methods import MethodSpec, apply
from jaxplain.perturb import BASELINES
from jaxplain.runs.subject import Request, Subject, make_subject, method_key, request
from jaxplain.scores import KINDS, ScoreKind, class_score, kind_of_probability


class View(NamedTuple):
    """A photo as the classifier sees it."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    subject: Subject  # arrays on the device

    @property
    def target(self) -> int:
        """The explained class's index."""
        return int(self.subject.target)

    @property
    def probability(self) -> float:
        """The explained class's probability."""
        return float(self.subject.probability)


class Step(NamedTuple):
    """A computation to run on every subject."""

    name: str  # identifies the program, so it must include everything that the program depends on
    run: Callable[[Any, Subject], Any]  # (classifier, subject) -> pytree, traced by JAX


class Program(NamedTuple):
    """A compiled step, reused for every subject in a run."""

    step: Step
    run: Callable[..., Any]  # (classifier, subject) -> pytree on the device
    compile_seconds: float
    shapes: Any = None  # the result's shapes, as a pytree of `jax.ShapeDtypeStruct`


class Outcome(NamedTuple):
    """A step's result for one subject."""

    value: Any  # pytree of NumPy arrays
    seconds: float  # run time, without compilation


class Measured(NamedTuple):
    """The measures of one map."""

    curves: metrics.Curves
    confidence: metrics.Confidence | None  # None if not requested


class _Pending(NamedTuple):
    """A program that is being compiled."""

    shapes: Any  # the result's shapes
    started: float
    compiled: Future[tuple[Callable[..., Any], float]]  # the program and its completion time


def check_classifier(classifier: Any) -> None:
    """Raise a TypeError unless a classifier has the attributes that runs over photos require."""
    missing = [
        name for name in ("spec", "labels", "normalize", "crop_and_resize") if not hasattr(classifier, name)
    ]
    if missing:
        raise TypeError(
            "photos are explained with a classifier from jaxplain.zoo, or any with the attributes spec, "
            "labels, normalize and crop_and_resize; "
            f"{type(classifier).__name__} has no {', '.join(missing)}. For a bare model, call the methods "
            "and measures on its images, or use explain_dataset."
        )


class Engine:
    """A classifier and the programs compiled for it; each program is compiled once.

    Args:
      classifier: a classifier from the zoo, or any callable from images to logits with the attributes `spec`,
        `labels`, `normalize` and `crop_and_resize`.
      baseline: name of the baseline; see `jaxplain.baseline`.
      seed: random seed from which all keys are derived.
      batch_size: images per model call when maps are measured. If None, chosen by platform.

    Raises:
      ValueError: the baseline is unknown (the message suggests the nearest) or the seed is out of range.
      TypeError: the classifier lacks one of the attributes.
    """

    def __init__(
        self, classifier: Any, *, baseline: str = "blur", seed: int = 0, batch_size: int | None = None
    ) -> None:
        check_choice(baseline, BASELINES, "baseline")
        check_seed(seed)
        check_classifier(classifier)
        self.classifier, self.baseline, self.seed = classifier, baseline, seed
        self.batch_size = check_batch_size(batch_size)
        self.compile_seconds = 0.0  # time that callers have spent waiting for compilation
        self._programs: dict[Hashable, _Pending] = {}
        self._pool: ThreadPoolExecutor | None = None

    def view(self, rgb: np.ndarray, target: int | None = None) -> View:
        """Prepare a photo: crop and normalize it, and choose its target, baseline and key.

        Args:
          rgb: the photo, uint8 [H, W, 3], any size.
          target: class index. If None, the top prediction.

        Raises:
          ValueError: the target is not one of the classifier's classes.
        """
        self.check_target(target)
        pixels = self.classifier.crop_and_resize(rgb)
        run, _ = self._finished(self._start_view())
        return View(pixels, run(self.classifier, np.uint32(self.seed), request(pixels, target)))

    def compile(self, step: Step, *, n_steps: int | None = None, confidence: bool = False) -> Program:
        """Compile a step, if not compiled yet, in parallel with the program that `view` needs.

        Args:
          step: the step to compile.
          n_steps: if given, also compile the measures of the step's map, with this many steps per curve.
          confidence: as in `measure`; used only if `n_steps` is given.

        Raises:
          Exception: any error raised while the step is traced.
        """
        step_key = self._start(("step", step.name), step.run, self._subject_shapes())
        shapes = self._programs[step_key].shapes
        keys = [self._start_view()]
        if n_steps is not None:
            keys.append(self._start_measures(shapes.importance.shape, n_steps, confidence))
        run, seconds = self._finished(step_key)
        for key in keys:
            self._finished(key)
        return Program(step, run, seconds, shapes)

    def knows(self, step: Step) -> bool:
        """Return whether a step has been compiled."""
        return ("step", step.name) in self._programs

    def run(self, step: Step, view: View, classifier: Any = None) -> Outcome:
        """Run a step on a photo.

        Args:
          step: the step to run; compiled first if necessary.
          view: the prepared photo.
          classifier: a different classifier with the same structure, such as one with shuffled parameters.
        """
        program = self.compile(step)
        start = time.perf_counter()
        value = program.run(self.classifier if classifier is None else classifier, view.subject)
        value = jax.block_until_ready(value)
        seconds = time.perf_counter() - start
        return Outcome(jax.tree_util.tree_map(np.asarray, value), seconds)

    def measure(
        self, view: View, importance: np.ndarray, n_steps: int = 50, *, confidence: bool = True
    ) -> Measured:
        """Measure a map on the explained class's probability; return a pytree of NumPy arrays.

        Args:
          view: the prepared photo.
          importance: the map, [h, w], high = important.
          n_steps: number of steps in the deletion and insertion curves.
          confidence: whether to also measure the classifier's confidence on the explanation.
        """
        importance = np.asarray(importance, np.float32)
        check_positive_int(n_steps, "n_steps")
        run, _ = self._finished(self._start_measures(importance.shape, n_steps, confidence))
        return jax.tree_util.tree_map(np.asarray, run(self.classifier, view.subject, importance))

    def check_target(self, target: int | None) -> None:
        """Raise a ValueError unless the target is None or one of the classifier's classes."""
        if target is not None:
            check_target(target, len(self.classifier.labels))

    def label(self, view: View) -> str:
        """Return the name of the explained class."""
        return self.classifier.labels[view.target]

    # Compilation: tracing happens here, under this thread's JAX settings; XLA compiles in other threads.

    def _subject_shapes(self) -> Subject:
        image: Any = jax.ShapeDtypeStruct((*self.classifier.spec.size, 3), jnp.float32)
        target: Any = jax.ShapeDtypeStruct((), jnp.int32)
        number: Any = jax.ShapeDtypeStruct((), jnp.float32)
        key = jax.eval_shape(partial(jax.random.key, 0))
        return Subject(image, image, target, number, key)

    def _start_view(self) -> Hashable:
        pixels = jax.ShapeDtypeStruct((*self.classifier.spec.size, 3), jnp.uint8)
        words = jax.ShapeDtypeStruct((2,), jnp.uint32)
        asked = Request(pixels, jax.ShapeDtypeStruct((), jnp.int32), words)
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        return self._start("view", partial(make_subject, baseline=self.baseline), seed, asked)

    def _start_measures(self, shape: tuple[int, ...], n_steps: int, confidence: bool) -> Hashable:
        function = partial(_measure, n_steps=n_steps, batch_size=self.batch_size, confidence=confidence)
        importance = jax.ShapeDtypeStruct(shape, jnp.float32)
        key = ("measure", shape, n_steps, confidence)
        return self._start(key, function, self._subject_shapes(), importance)

    def _start(self, key: Hashable, function: Callable[..., Any], *shapes: Any) -> Hashable:
        """Trace a function of the classifier and start compiling it, unless this has already been done."""
        if key not in self._programs:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(thread_name_prefix="compile")
            start = time.perf_counter()
            traced = jax.jit(function).trace(self.classifier, *shapes)
            compiled = self._pool.submit(_compiled, traced.lower())
            self._programs[key] = _Pending(traced.out_info, start, compiled)
            self.compile_seconds += time.perf_counter() - start
        return key

    def _finished(self, key: Hashable) -> tuple[Callable[..., Any], float]:
        """Wait for a program; return it with the time from tracing to completion, in seconds."""
        pending = self._programs[key]
        start = time.perf_counter()
        run, end = pending.compiled.result()
        self.compile_seconds += time.perf_counter() - start
        return run, end - pending.started


def _compiled(lowered: Any) -> tuple[Callable[..., Any], float]:
    return lowered.compile(), time.perf_counter()


def _measure(
    classifier: Any,
    subject: Subject,
    importance: Array,
    *,
    n_steps: int,
    batch_size: int | None,
    confidence: bool,
) -> Measured:
    score = class_score(classifier, subject.target, kind_of_probability(classifier))
    arguments = score, subject.image, subject.baseline, importance
    curves = metrics.insertion_deletion(*arguments, n_steps=n_steps, batch_size=batch_size)
    return Measured(curves, metrics.confidence_on_explanation(*arguments) if confidence else None)


def explain_step(
    name: str,
    method: MethodSpec | Callable[..., Any],
    options: Mapping[str, Any],
    *,
    kind: ScoreKind | None = None,
) -> Step:
    """Return the step that explains a subject with a method; its value is an `Explanation`.

    Args:
      name: name of the method; together with the photo and the seed, it determines the random key.
      method: a registered method or a custom function; see `jaxplain.explanation.Method`.
      options: options for the method; those that the method does not have are dropped.
      kind: kind of score, see `jaxplain.class_score`; if None, the class's probability.

    Raises:
      ValueError: the kind of score is unknown; the message suggests the nearest.
    """
    if kind is not None:
        check_choice(kind, KINDS, "score kind")

    def run(classifier: Any, subject: Subject) -> Explanation:
        score = class_score(classifier, subject.target, kind or kind_of_probability(classifier))
        key = method_key(subject.key, name)
        return apply(method, score, subject.image, subject.baseline, key=key, options=options)

    settings = [f"{option}={options[option]!r}" for option in sorted(options)]
    return Step(" ".join([name, kind or "probability", *settings]), run)
