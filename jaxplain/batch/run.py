"""A run over a data set: open the results, find what is pending, explain it, commit it."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxplain.batch import hosts
from jaxplain.batch.config import check_config, check_settings, run_config
from jaxplain.batch.dataset import Dataset, Example, Stream, Task, as_dataset, given
from jaxplain.batch.loading import Loaded, load, load_groups
from jaxplain.batch.place import StoreError, exclusively
from jaxplain.batch.plan import Plan
from jaxplain.batch.program import (
    Explain,
    Inputs,
    Program,
    check_model,
    compile_program,
    default_per_device_batch,
    host_batch,
    inputs_of,
    local_mesh,
    result_leaves,
)
from jaxplain.batch.store import ResultStore, check_place, create_store, open_store, rows_a_chunk
from jaxplain.batch.writing import Writer
from jaxplain.checks import check_choice, check_positive_int
from jaxplain.jobs.photos import check_seed
from jaxplain.precision import DTYPES, lower_precision, rematerialize
from jaxplain.scores import as_pytree

_THREADS = 4  # that read images


class TooManyFailures(RuntimeError):
    """More rows failed than the run allows."""


class Progress(NamedTuple):
    """Where a run of this process stands."""

    done: int  # rows explained by this run
    failed: int  # rows that failed in it
    before: int  # rows that were there already
    total: int | None  # rows of this process; None where only the end of a stream will tell
    seconds: float  # since the first step began
    means: Mapping[str, float]  # of the numbers among the results, over the rows of this run

    @property
    def images_per_second(self) -> float:
        """Rows of this run a second; 0 at the start."""
        return (self.done + self.failed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """At this pace; NaN where it is not known."""
        if self.total is None or not self.images_per_second:
            return float("nan")
        return (self.total - self.before - self.done - self.failed) / self.images_per_second


class Outcome(NamedTuple):
    """How a run ended."""

    progress: Progress
    compile_seconds: float  # 0 where there was nothing to do
    stopped: bool  # asked to stop before its end
    mended: int  # rows that had to be done again because their files were damaged


@dataclass
class _Count:
    """What the writer has committed."""

    before: int
    total: int | None
    start: float = field(default_factory=time.monotonic)
    done: int = 0
    failed: int = 0


def explain_dataset(
    explain: Explain,
    model: Any,
    dataset: Any,
    *,
    out: str | os.PathLike[str] = "results.zarr",
    mesh: Mesh | None = None,
    per_device_batch: int | None = None,
    resume: bool = True,
    seed: int = 0,
    dtype: str = "float32",
    remat: bool = False,
    settings: Mapping[str, Any] | None = None,
    max_failures: int | None = None,
    retry_failed: bool = True,
    threads: int = _THREADS,
    stop: threading.Event | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
    doing: Callable[[str], None] = lambda what: None,
) -> Outcome:
    """Explain every image of a data set on all devices, into results that survive being killed.

    Every image is a row of a Zarr v3 group; see `jaxplain.batch.open_store` (zarr and xarray open it too). A
    row is committed after its data is on the disk. Called again with the same arguments, committed rows are
    left alone and the others done. An image's random key comes from the seed and its identity, so that
    results depend on neither order, batch size, devices nor hosts beyond rounding.

    With several processes (`jaxplain.batch.join`) all call this alike, with a data set that all can read and
    results that all can write; each explains its share on its own devices, and none waits for another.

    Args:
      explain: pure function `(model, image, target, key) -> pytree of arrays` of one image; see `Explain`.
      model: a classifier, images [N, H, W, C] -> logits [N, K], or a score, images -> [N]; a callable pytree.
      dataset: a folder of photos (with those of its sub-folders), a list of paths or of `Example`, a
        `Dataset`, or any iterable of `Example` (of one process only).
      out: the results' folder, or an address that TensorStore knows, such as "gs://bucket/results.zarr".
      mesh: devices, sharded over its axis "data" (or its only one); None: all of them.
      per_device_batch: images a device and step; None: 1 on a CPU, 16 elsewhere. The model sees the funnel's
        `batch_size` of them at a time, whatever `explain` makes of them.
      resume: go on with results that are there already; False refuses them.
      seed: of all randomness.
      dtype: in which the model computes; see `jaxplain.lower_precision`.
      remat: compute activations again in the backward pass; see `jaxplain.rematerialize`.
      settings: what else must be the same when the run goes on, as JSON can hold it. `explain`'s name and its
        arguments (of a `functools.partial` or a dataclass), the model's weights, seed and versions are
        compared anyway.
      max_failures: end the run once more rows than this have failed; None: never.
      retry_failed: try rows again that failed in an earlier run.
      threads: that read images.
      stop: set it, from a signal handler or another thread, to end after the present step.
      tell: hears after each commit, in another thread, where the run stands.
      doing: hears what is being done: "checking", "compiling", "explaining". What can be refused is refused
        before anything is compiled.

    Returns:
      An `Outcome`. An image that cannot be read, or has no finite score, is a row of status FAILED with its
      reason; the others go on.

    Raises:
      ValueError, TypeError: arguments that do not fit, no readable image; `StoreError` where the results were
        made otherwise, naming what differs.
      OutputError: the results cannot be written; what was committed stays.
      TooManyFailures: see `max_failures`.

    Example:
      >>> import jaxplain as jx
      >>> from jaxplain.batch import explain_dataset
      >>> def explain(model, image, target, key):
      ...     score = jx.class_score(model, target)
      ...     return {"mask": jx.igos_pp(score, image, jx.blur_baseline(image)).mask}
      >>> explain_dataset(explain, jx.zoo.load("efficientnet-lite0"), "photos")  # doctest: +SKIP
    """
    check_seed(seed)
    check_choice(dtype, DTYPES, "dtype")
    for name, value in {"per_device_batch": per_device_batch, "threads": threads}.items():
        if value is not None:
            check_positive_int(value, name)
    doing("checking")
    model = as_pytree(model)
    source = as_dataset(dataset, model)
    here = local_mesh(mesh)
    source, inputs = _first_inputs(source)
    check_model(model, inputs)
    config = run_config(explain, model, inputs, seed=seed, dtype=dtype, settings=settings or {})
    if hosts.first():
        _check_place(out, config, resume=resume)
    leaves = result_leaves(explain, model, inputs)  # traces the method, which takes a while
    model = _lightened(model, dtype, remat)
    with exclusively(out) if hosts.first() else nullcontext():
        store, mended = _opened(out, leaves, config, source, resume=resume)
        plan = Plan(store, source, retry_failed)
        if plan.pending == 0:
            return Outcome(Progress(0, 0, plan.before, plan.total, 0.0, {}), 0.0, False, mended)
        batch = default_per_device_batch() if per_device_batch is None else per_device_batch
        doing("compiling")
        program = compile_program(explain, model, inputs, here, seed=seed, per_device_batch=batch)
        doing("explaining")
        runner = _Runner(program, inputs, threads, max_failures, stop or threading.Event(), tell)
        progress, stopped = runner.run(plan)
    return Outcome(progress, program.compile_seconds, stopped, mended)


def _lightened(model: Any, dtype: str, remat: bool) -> Any:
    lower = model if dtype == "float32" else lower_precision(model, dtype)
    return rematerialize(lower) if remat else lower


def _first_inputs(source: Dataset | Stream) -> tuple[Dataset | Stream, Inputs]:
    """What kind of images a data set holds, from the first that can be read."""
    if isinstance(source, Stream):
        rest = iter(source)
        seen: list[Example] = []
        for example in rest:
            seen.append(example)
            found = load(given(0, example), None)
            if found.example is not None:
                return Stream(chain(seen, rest)), inputs_of(found.example)
        raise ValueError(
            f"none of {len(seen)} images can be used: each must be an Example with a finite image."
        )
    reason = ""
    for row, identity in enumerate(source.identities):
        found = load(Task(row, identity, partial(source.load, row)), None)
        if found.example is not None:
            return source, inputs_of(found.example)
        reason = reason or found.reason
    raise ValueError(f"none of {len(source.identities)} images can be read: {reason}")


def _check_place(out: str | os.PathLike[str], config: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse a place for the results, or results that are there, before much work is done; makes nothing."""
    try:
        store = open_store(out)
    except FileNotFoundError:
        check_place(out)
    else:
        _check_resumable(store, resume=resume)
        check_settings(store, config)


def _check_resumable(store: ResultStore, *, resume: bool) -> None:
    if not resume:
        raise StoreError(f"{store.path} holds results already; go on with them, or choose another place.")


def _opened(
    out: str | os.PathLike[str],
    leaves: Mapping[str, Any],
    config: Mapping[str, Any],
    source: Dataset | Stream,
    *,
    resume: bool,
) -> tuple[ResultStore, int]:
    """The store, with a row for every image that is known, and how many rows had damaged files.

    The first process makes it while the others wait; each mends its share.
    """
    if isinstance(source, Stream) and jax.process_count() > 1:
        raise ValueError("several processes need a data set of known length: a list, a folder or a Dataset.")
    nameless = _prepare(out, leaves, config, source, resume=resume) if hosts.first() else 0
    hosts.wait_for_all("jaxplain store")
    store = open_store(out)
    check_config(store, leaves, config)
    return store, nameless + store.mend(hosts.own_chunks(store))


def _prepare(
    out: str | os.PathLike[str],
    leaves: Mapping[str, Any],
    config: Mapping[str, Any],
    source: Dataset | Stream,
    *,
    resume: bool,
) -> int:
    """Make or check the store; returns how many rows had lost their identity."""
    identities = [] if isinstance(source, Stream) else list(source.identities)
    try:
        store = open_store(out)
    except FileNotFoundError:
        rows = None if isinstance(source, Stream) else len(identities)
        create_store(out, leaves, config, chunk_rows=rows_a_chunk(leaves, rows, jax.process_count()))
        store = open_store(out)
    else:
        _check_resumable(store, resume=resume)
        check_config(store, leaves, config)
    known = set(store.identities())
    return store.add([identity for identity in identities if identity not in known])


@dataclass
class _Runner:
    """Steps through what is pending."""

    program: Program
    inputs: Inputs
    threads: int
    max_failures: int | None
    stop: threading.Event
    tell: Callable[[Progress], None]

    def run(self, plan: Plan) -> tuple[Progress, bool]:
        """Explain and commit; returns where it stands, and whether it was asked to stop."""
        count = _Count(plan.before, plan.total)
        writer = Writer(plan.store, lambda done, failed: self._committed(count, plan, writer, done, failed))
        stopped = False
        try:
            for group in load_groups(plan.tasks(), self.inputs, self.program.size, self.threads):
                writer.put(group, self._step(group.good))
                if self._too_many(count) or self.stop.is_set():
                    stopped = self.stop.is_set()
                    break
        finally:
            writer.close()
        writer.check()
        if self._too_many(count):
            raise TooManyFailures(
                f"{count.failed} images failed, more than max_failures = {self.max_failures}; "
                f"{count.done} are done and stay in {plan.store.path}."
            )
        return self._progress(count, plan, writer), stopped

    def _step(self, good: list[Loaded]) -> Any:
        if not good:
            return None
        examples = [one.example for one in good if one.example is not None]
        return self.program.run(host_batch(examples, self.inputs, self.program.size))

    def _too_many(self, count: _Count) -> bool:
        return self.max_failures is not None and count.failed > self.max_failures

    def _committed(self, count: _Count, plan: Plan, writer: Writer, done: int, failed: int) -> None:
        count.done += done
        count.failed += failed
        self.tell(self._progress(count, plan, writer))

    def _progress(self, count: _Count, plan: Plan, writer: Writer) -> Progress:
        seconds = time.monotonic() - count.start
        return Progress(count.done, count.failed, plan.before, plan.total, seconds, writer.means.now())
