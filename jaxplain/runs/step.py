"""The run engine: one classifier, the programs compiled for it, and the photos it is run on.

A run is a `Subject` x a `Step` x a sink. The engine makes the subjects and runs the steps; sinks are in
`jaxplain.runs.sinks`.
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
from jaxplain.scores import KINDS, class_score


class View(NamedTuple):
    """A photo as the classifier sees it."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    subject: Subject  # on the device

    @property
    def target(self) -> int:
        """Index of the explained class."""
        return int(self.subject.target)

    @property
    def probability(self) -> float:
        """Softmax probability of the explained class."""
        return float(self.subject.probability)


class Step(NamedTuple):
    """A computation for every subject."""

    name: str  # identifies the program, so it must include all that the program depends on
    run: Callable[[Any, Subject], Any]  # (classifier, subject) -> pytree, traced by JAX


class Program(NamedTuple):
    """A compiled step, used for every subject of the run."""

    step: Step
    run: Callable[..., Any]  # (classifier, subject) -> pytree on the device
    compile_seconds: float
    shapes: Any = None  # of the result: the same pytree of `jax.ShapeDtypeStruct`


class Outcome(NamedTuple):
    """The result of a step for one subject."""

    value: Any  # pytree of NumPy arrays
    seconds: float  # of the compiled run


class Measured(NamedTuple):
    """Measures of one map."""

    curves: metrics.Curves
    confidence: metrics.Confidence | None  # None if not requested


class _Pending(NamedTuple):
    """A program that is being compiled."""

    shapes: Any  # of the result
    started: float
    compiled: Future[tuple[Callable[..., Any], float]]  # and its completion time


class Engine:
    """A classifier and everything that is compiled for it; each program is compiled once.

    Args:
      classifier: of the zoo, or anything callable from images to logits with the attributes `spec`, `labels`,
        `normalize` and `crop_and_resize`.
      baseline: name of the baseline; see `jaxplain.baseline`.
      seed: of all random keys.
      batch_size: images per model call when maps are measured; None chooses by platform.

    Raises:
      ValueError: an unknown baseline (suggests the nearest) or a seed out of range.
    """

    def __init__(
        self, classifier: Any, *, baseline: str = "blur", seed: int = 0, batch_size: int | None = None
    ) -> None:
        check_choice(baseline, BASELINES, "baseline")
        check_seed(seed)
        self.classifier, self.baseline, self.seed = classifier, baseline, seed
        self.batch_size = check_batch_size(batch_size)
        self.compile_seconds = 0.0  # spent on compiling so far, as the caller waited for it
        self._programs: dict[Hashable, _Pending] = {}
        self._pool: ThreadPoolExecutor | None = None

    def view(self, rgb: np.ndarray, target: int | None = None) -> View:
        """Prepare a photo: crop, normalize, choose target, baseline and key.

        Args:
          rgb: uint8 [H, W, 3], any size.
          target: class index; None: the top prediction.

        Raises:
          ValueError: the target is not a class.
        """
        self.check_target(target)
        pixels = self.classifier.crop_and_resize(rgb)
        run, _ = self._finished(self._start_view())
        return View(pixels, run(self.classifier, np.uint32(self.seed), request(pixels, target)))

    def compile(self, step: Step, *, n_steps: int | None = None, confidence: bool = False) -> Program:
        """Compile a step, once, and in parallel the program that `view` needs.

        Args:
          step: what to compile.
          n_steps: also compile the measures of the step's map, with curves of this many steps.
          confidence: as in `measure`; with `n_steps`.

        Raises:
          Exception: whatever tracing the step raises.
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
        """Return whether a step was compiled before."""
        return ("step", step.name) in self._programs

    def run(self, step: Step, view: View, classifier: Any = None) -> Outcome:
        """Run a step on a photo.

        Args:
          step: compiled now unless it was before.
          view: the photo.
          classifier: another one of the same structure, such as one with shuffled parameters.
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
        """Measure a map on the softmax probability of the explained class; a pytree of NumPy arrays.

        Args:
          view: the photo.
          importance: [h, w], high = important.
          n_steps: of the deletion and insertion curves.
          confidence: also measure the confidence on the explanation.
        """
        importance = np.asarray(importance, np.float32)
        check_positive_int(n_steps, "n_steps")
        run, _ = self._finished(self._start_measures(importance.shape, n_steps, confidence))
        return jax.tree_util.tree_map(np.asarray, run(self.classifier, view.subject, importance))

    def check_target(self, target: int | None) -> None:
        """Raise a ValueError unless the target is a class of the classifier, or None."""
        if target is not None:
            check_target(target, len(self.classifier.labels))

    def label(self, view: View) -> str:
        """Return the name of the explained class."""
        return self.classifier.labels[view.target]

    # Compilation: traced here, under this thread's JAX settings; XLA compiles in other threads.

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
        """Trace a function of the classifier and begin to compile it, unless that was done before."""
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
        """Wait for a program; return it with the seconds from its tracing to its end."""
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
    arguments = class_score(classifier, subject.target), subject.image, subject.baseline, importance
    curves = metrics.insertion_deletion(*arguments, n_steps=n_steps, batch_size=batch_size)
    return Measured(curves, metrics.confidence_on_explanation(*arguments) if confidence else None)


def explain_step(
    name: str,
    method: MethodSpec | Callable[..., Any],
    options: Mapping[str, Any],
    *,
    kind: str = "probability",
) -> Step:
    """Make the step that explains a subject with a method; its value is an `Explanation`.

    Args:
      name: of the method; with the photo and the seed it determines the random key.
      method: of the registry, or a function of your own; see `jaxplain.explanation.Method`.
      options: for the method; those it does not have are dropped.
      kind: of the score; see `jaxplain.class_score`.

    Raises:
      ValueError: an unknown kind of score; suggests the nearest.
    """
    check_choice(kind, KINDS, "score kind")

    def run(classifier: Any, subject: Subject) -> Explanation:
        score = class_score(classifier, subject.target, kind)  # type: ignore[arg-type]
        key = method_key(subject.key, name)
        return apply(method, score, subject.image, subject.baseline, key=key, options=options)

    settings = [f"{option}={options[option]!r}" for option in sorted(options)]
    return Step(" ".join([name, kind, *settings]), run)
