"""Batch runs: explain whole data sets on all devices of all hosts, with results that survive interruption.

Also exported from here: `Example`, `Photos`, `make_recipe`, `image_key`, `join`,
`open_store`, `RowStatus`, `StoreError`.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

import jaxplain
from jaxplain.checks import check_choice, check_positive_int, check_seed
from jaxplain.precision import DTYPES, lower_precision, rematerialize
from jaxplain.runs import sharding
from jaxplain.runs.dataset import (
    Dataset,
    ImageFormat,
    LoadedGroup,
    Stream,
    WorkPlan,
    as_dataset,
    load_groups,
    probe_format,
)
from jaxplain.runs.dataset import Example as Example
from jaxplain.runs.dataset import Photos as Photos
from jaxplain.runs.records import plain, weights_digest
from jaxplain.runs.sharding import (
    ExplainedBatch,
    ExplainFunction,
    Recipe,
    ShardedStep,
    compile_step,
    result_leaves,
    stack_requests,
)
from jaxplain.runs.sharding import image_key as image_key
from jaxplain.runs.sharding import join as join
from jaxplain.runs.sharding import make_recipe as make_recipe
from jaxplain.runs.storage import StoreError as StoreError
from jaxplain.runs.storage import exclusively
from jaxplain.runs.store import (
    FinishedRows,
    LeafSpec,
    ResultStore,
    check_location,
    create_store,
    rows_per_chunk,
)
from jaxplain.runs.store import RowStatus as RowStatus
from jaxplain.runs.store import open_store as open_store
from jaxplain.runs.writer import ResultWriter
from jaxplain.scores import as_pytree

_THREADS = 4  # to read images


class TooManyFailures(RuntimeError):
    """More rows failed than `max_failures` allows."""


class Phase(Enum):
    """Phase of a run. Invalid input is refused while checking, if possible."""

    CHECKING = "checking"
    COMPILING = "compiling"
    EXPLAINING = "explaining"


class Progress(NamedTuple):
    """Progress of this process."""

    done: int  # rows explained by this run
    failed: int  # rows that failed in this run
    before: int  # rows finished by earlier runs
    total: int | None  # rows of this process; None for a stream, whose length is unknown
    seconds: float  # since the first step started
    means: Mapping[str, float]  # of each scalar of the results, over the rows of this run

    @property
    def images_per_second(self) -> float:
        """Rows of this run per second; 0 at the start."""
        return (self.done + self.failed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Remaining time, estimated from the speed so far; NaN if unknown."""
        if self.total is None or not self.images_per_second:
            return float("nan")
        return (self.total - self.before - self.done - self.failed) / self.images_per_second


class BatchOutcome(NamedTuple):
    """Outcome of a run."""

    progress: Progress
    compile_seconds: float  # 0 if nothing was left to do
    stopped: bool  # whether it was stopped before its end
    repaired: int  # rows that had to be explained again because their files were damaged


def explain_dataset(
    explain: ExplainFunction | Recipe,
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
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_phase: Callable[[Phase], None] = lambda phase: None,
) -> BatchOutcome:
    """Explain every image of a data set on all devices, with results that survive interruption.

    Every image is a row of a Zarr v3 group; `open_store` opens it, and so do zarr and
    xarray. A row is committed after its data is on disk. Called again with the same arguments, a run
    skips committed rows and explains the others. An image's random key comes from the seed and its content,
    so results do not depend on names, order, batch size, devices or hosts, except for rounding.

    With several processes (`join`) each makes the same call, with a data set that all
    can read and a location that all can write; each explains its share on its own devices, independently.

    Args:
      explain: `explain(model, image, target, key) -> pytree of arrays`, a pure function of one image (see
        `jaxplain.runs.sharding.ExplainFunction`), or a recipe of `make_recipe`.
      model: a classifier, images [N, H, W, C] -> logits, or a score, images -> [N]; anything that
        `jaxplain.scores.as_pytree` takes.
      dataset: a folder, a list of paths or of `Example`, an iterable of `Example`, or a `Dataset`. All
        images must have one shape and dtype.
      out: a folder, or a URL that TensorStore understands ("gs://bucket/results.zarr").
      mesh: devices; images are sharded along its axis "data" (or its only one). None: all devices.
      per_device_batch: images per device per step; None: 1 on a CPU, 16 on an accelerator. The model gets
        the funnel's `batch_size` images at a time, whatever `explain` does with them.
      resume: continue with existing results; False refuses them.
      seed: random seed, 0 to 2**32 - 1.
      dtype: number format of the model; see `jaxplain.lower_precision`.
      remat: recompute activations in the backward pass; see `jaxplain.rematerialize`.
      settings: what else must match on resuming, JSON-serializable. The name and arguments of `explain`
        (of a `functools.partial` or a dataclass), model, weights, seed and version are always compared.
      max_failures: stop once more rows than this have failed; None: never.
      retry_failed: try again rows that failed in an earlier run.
      threads: number of threads that read images.
      stop: set it, from a signal handler or another thread, to stop after the current step.
      on_progress: called with the current `Progress` after each commit, in another thread.
      on_phase: called with the new `Phase` whenever it changes.

    Returns:
      A `BatchOutcome`. An image that cannot be read, or has no finite score, becomes a row with status FAILED
      and a reason; the others continue.

    Raises:
      ValueError, TypeError: invalid arguments, or no usable image; `StoreError` for results of other
        settings; names the first that differs.
      OutputError: the results cannot be written; committed rows are safe.
      TooManyFailures: see `max_failures`.

    Example:
      >>> import jaxplain as jx
      >>> from jaxplain.runs.batch import explain_dataset
      >>> def explain(model, image, target, key):
      ...     found = jx.igos_pp(jx.class_score(model, target), image)
      ...     return {"importance": found.importance, "status": found.status}
      >>> explain_dataset(explain, jx.zoo.load("efficientnet-lite0"), "photos")  # doctest: +SKIP
    """
    check_seed(seed)
    check_choice(dtype, DTYPES, "dtype")
    for name, value in {"per_device_batch": per_device_batch, "threads": threads}.items():
        if value is not None:
            check_positive_int(value, name)
    on_phase(Phase.CHECKING)
    model = as_pytree(model)
    source = as_dataset(dataset, model)
    here = sharding.local_mesh(mesh)
    source, image_format = probe_format(source)
    sharding.check_model(model, image_format)
    config = run_config(explain, model, image_format, seed=seed, dtype=dtype, settings=settings or {})
    target = _Target(out, config, resume)
    if sharding.is_first_process():
        target.check()
    leaves = result_leaves(explain, model, image_format)  # traces the method, which takes a while
    model = _with_precision(model, dtype, remat)
    with exclusively(out) if sharding.is_first_process() else nullcontext():
        store, repaired = target.open(leaves, source)
        plan = WorkPlan(store, source, sharding.own_chunks(store), retry_failed=retry_failed)
        if plan.finished:
            return BatchOutcome(Progress(0, 0, plan.before, plan.total, 0.0, {}), 0.0, False, repaired)
        batch = sharding.default_per_device_batch() if per_device_batch is None else per_device_batch
        on_phase(Phase.COMPILING)
        step = compile_step(explain, model, image_format, here, seed=seed, per_device_batch=batch)
        on_phase(Phase.EXPLAINING)
        runner = _Runner(step, plan, max_failures, stop or threading.Event(), on_progress)
        runner.run(image_format, threads)
    return BatchOutcome(runner.progress(), step.compile_seconds, runner.stopped, repaired)


def _with_precision(model: Any, dtype: str, remat: bool) -> Any:
    lower = model if dtype == "float32" else lower_precision(model, dtype)
    return rematerialize(lower) if remat else lower


# ---------------------------------------------------------------------------------------------------------
# Configuration: recorded in the results, and compared on resuming


def run_config(
    explain: ExplainFunction | Recipe,
    model: Any,
    image_format: ImageFormat,
    *,
    seed: int,
    dtype: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the configuration shared by all rows of a store, JSON-serializable."""
    return {
        "jaxplain": jaxplain.__version__,
        "explain": _described(explain),
        "model": str(getattr(model, "name", type(model).__name__)),
        "weights": weights_digest(model),
        "seed": seed,
        "dtype": dtype,
        "image": [list(image_format.shape), image_format.dtype],
        **plain(dict(settings)),
    }


def _described(explain: Any) -> Any:
    """Describe a function by name, a `functools.partial` or dataclass also by its arguments or fields."""
    if isinstance(explain, partial):
        return {
            "function": _described(explain.func),
            "arguments": plain([*explain.args]),
            **plain(explain.keywords),
        }
    if is_dataclass(explain) and not isinstance(explain, type):
        values = {item.name: plain(getattr(explain, item.name)) for item in fields(explain)}
        return {"function": type(explain).__qualname__, **values}
    return getattr(explain, "__qualname__", type(explain).__qualname__)


def check_config(
    store: ResultStore, config: Mapping[str, Any], leaves: Mapping[str, LeafSpec] | None = None
) -> None:
    """Refuse to add rows with another configuration or other arrays (None: not known yet).

    Raises:
      StoreError: names the first setting that differs, with both values.
    """
    expected, stored = _flattened(json.loads(json.dumps(dict(config)))), _flattened(store.config)
    for name in {**expected, **stored}:
        if expected.get(name) != stored.get(name):
            raise StoreError(
                f"{store.path} was made with {name} {stored.get(name)!r}, not {expected.get(name)!r}: "
                "choose another location for the results, or delete this one to start over."
            )
    if leaves is not None and dict(leaves) != store.leaves:
        raise StoreError(
            f"{store.path} holds {_listed(store.leaves)}, but this run returns {_listed(leaves)}: "
            "choose another location for the results."
        )


def _flattened(config: Any, name: str = "") -> dict[str, Any]:
    """Return a nested configuration as settings with names such as "explain.size"."""
    if not isinstance(config, dict):
        return {name: config}
    parts = (_flattened(value, f"{name}.{key}" if name else key) for key, value in config.items())
    return {key: value for part in parts for key, value in part.items()}


def _listed(leaves: Mapping[str, LeafSpec]) -> str:
    return ", ".join(f"{name} {leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items())


class _Target(NamedTuple):
    """Destination of the results of a run."""

    out: str | os.PathLike[str]
    config: Mapping[str, Any]
    resume: bool

    def check(self) -> None:
        """Check the location and existing results before much work is done; create nothing."""
        try:
            store = open_store(self.out)
        except FileNotFoundError:
            check_location(self.out)
        else:
            self._check_existing(store)

    def open(self, leaves: Mapping[str, LeafSpec], source: Dataset | Stream) -> tuple[ResultStore, int]:
        """Return the store, with a row for every known image, and the number of rows with damaged files.

        The first process creates it while the others wait; each repairs its share.
        """
        if isinstance(source, Stream) and jax.process_count() > 1:
            raise ValueError(
                "several processes need a data set of known length: a list, a folder or a Dataset."
            )
        lost = self._create_or_extend(leaves, source) if sharding.is_first_process() else 0
        sharding.wait_for_all("jaxplain store")
        store = open_store(self.out)
        check_config(store, self.config, leaves)
        return store, lost + store.repair(sharding.own_chunks(store))

    def _create_or_extend(self, leaves: Mapping[str, LeafSpec], source: Dataset | Stream) -> int:
        """Create or extend the store; return how many rows had lost their identity."""
        identities = [] if isinstance(source, Stream) else list(source.identities)
        try:
            store = open_store(self.out)
        except FileNotFoundError:
            rows = None if isinstance(source, Stream) else len(identities)
            chunk_rows = rows_per_chunk(leaves, rows, jax.process_count())
            create_store(self.out, leaves, self.config, chunk_rows=chunk_rows)
            store = open_store(self.out)
        else:
            self._check_existing(store, leaves)
        known = set(store.identities())
        return store.add([identity for identity in identities if identity not in known])

    def _check_existing(self, store: ResultStore, leaves: Mapping[str, LeafSpec] | None = None) -> None:
        if not self.resume:
            raise StoreError(f"{store.path} already holds results; resume them, or choose another location.")
        check_config(store, self.config, leaves)


# ---------------------------------------------------------------------------------------------------------
# The loop over steps


@dataclass
class _Runner:
    """Explains the pending rows, step by step."""

    step: ShardedStep
    plan: WorkPlan
    max_failures: int | None
    stop: threading.Event
    on_progress: Callable[[Progress], None]
    done: int = 0
    failed: int = 0
    stopped: bool = False
    start: float = field(default_factory=time.monotonic)
    means: "_RunningMeans" = field(default_factory=lambda: _RunningMeans({}, {}))

    def run(self, image_format: ImageFormat, threads: int) -> None:
        """Explain and commit until all rows are done, too many failed, or `stop` is set."""
        writer = ResultWriter(self.plan.store, self._committed)
        try:
            for group in load_groups(self.plan.tasks(), image_format, self.step.size, threads):
                writer.put(group, self._explained(group))
                self.stopped = self.stop.is_set()
                if self.stopped or self._too_many():
                    break
        finally:
            writer.close()
        writer.check()
        if self._too_many():
            raise TooManyFailures(
                f"{_images(self.failed)} failed, more than max_failures = {self.max_failures}; "
                f"{_images(self.done)} explained in {self.plan.store.path}."
            )

    def _explained(self, group: LoadedGroup) -> ExplainedBatch | None:
        requests = [image.request for image in group.ready if image.request is not None]
        return self.step.run(stack_requests(requests, self.step.size)) if requests else None

    def _too_many(self) -> bool:
        return self.max_failures is not None and self.failed > self.max_failures

    def _committed(self, rows: FinishedRows) -> None:
        ok = rows.status == RowStatus.OK
        self.means.add({name: leaf[ok] for name, leaf in rows.leaves.items()})
        self.done += int(ok.sum())
        self.failed += int((~ok).sum())
        self.on_progress(self.progress())

    def progress(self) -> Progress:
        """Return the progress so far."""
        seconds, plan = time.monotonic() - self.start, self.plan
        return Progress(self.done, self.failed, plan.before, plan.total, seconds, self.means.now())


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


class _RunningMeans(NamedTuple):
    """Running means of the scalars among the results."""

    sums: dict[str, float]
    counts: dict[str, int]

    def add(self, leaves: Mapping[str, np.ndarray]) -> None:
        """Add the finite numbers of further rows."""
        for name, leaf in leaves.items():
            if leaf.ndim == 1 and leaf.dtype.kind == "f":
                finite = leaf[np.isfinite(leaf)]
                self.sums[name] = self.sums.get(name, 0.0) + float(finite.sum(dtype=np.float64))
                self.counts[name] = self.counts.get(name, 0) + finite.size

    def now(self) -> dict[str, float]:
        """Return the means so far."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}
