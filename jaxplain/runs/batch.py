"""Batch runs: explain whole data sets on all devices of all hosts, with resumable results.

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

_THREADS = 4  # threads that read images


class TooManyFailures(RuntimeError):
    """Raised if more rows fail than `max_failures` allows."""


class Phase(Enum):
    """Phase of a run. Invalid input is rejected in the checking phase if possible."""

    CHECKING = "checking"
    COMPILING = "compiling"
    EXPLAINING = "explaining"


class Progress(NamedTuple):
    """Progress of the current process."""

    done: int  # rows explained by this run
    failed: int  # rows that failed in this run
    before: int  # rows finished by earlier runs
    total: int | None  # rows assigned to this process; None for a stream, whose length is unknown
    seconds: float  # since the first step started
    means: Mapping[str, float]  # mean of each scalar result over the rows of this run

    @property
    def images_per_second(self) -> float:
        """Number of rows this run processes per second; 0 at the start."""
        return (self.done + self.failed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Estimated time remaining, in seconds, based on the speed so far; NaN if unknown."""
        if self.total is None or not self.images_per_second:
            return float("nan")
        return (self.total - self.before - self.done - self.failed) / self.images_per_second


class BatchOutcome(NamedTuple):
    """Outcome of a run."""

    progress: Progress
    compile_seconds: float  # 0 if there was nothing left to do
    stopped: bool  # whether the run was stopped early
    repaired: int  # rows that were explained again because their files were damaged


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
    """Explain every image in a data set on all devices, with resumable results.

    Each image is one row of a Zarr v3 group, which `open_store`, zarr and xarray can open. A row is
    committed once its data is on disk. When called again with the same arguments, the function skips
    committed rows and explains the rest. Each image's random key is derived from the seed and the image's
    content, so results do not depend on names, order, batch size, devices or hosts, except for rounding.

    With several processes (see `join`), every process makes the same call, with a data set that all of
    them can read and a location that all of them can write. Each process explains its share independently,
    on its own devices.

    Args:
      explain: `explain(model, image, target, key) -> pytree of arrays`, a pure function of one image (see
        `jaxplain.runs.sharding.ExplainFunction`), or a recipe from `make_recipe`.
      model: a classifier (images [N, H, W, C] -> logits) or a score (images -> [N]); anything that
        `jaxplain.scores.as_pytree` accepts.
      dataset: a folder, a list of paths or of `Example`, an iterable of `Example`, or a `Dataset`. All
        images must have the same shape and dtype.
      out: a folder, or a URL that TensorStore supports ("gs://bucket/results.zarr").
      mesh: device mesh; images are sharded along its "data" axis, or along its only axis. If `mesh` is
        None, all devices are used.
      per_device_batch: images per device per step. If None, 1 on a CPU and 16 on an accelerator. The model
        always receives `batch_size` images at a time, whatever `explain` does with them.
      resume: whether to add to existing results; if False, existing results are an error.
      seed: random seed, 0 to 2**32 - 1.
      dtype: the model's number format; see `jaxplain.lower_precision`.
      remat: whether to recompute activations in the backward pass; see `jaxplain.rematerialize`.
      settings: additional JSON-serializable settings that must match when a run is resumed. The name of
        `explain`, its arguments (for a `functools.partial` or a dataclass), and the model, weights, seed
        and version are always compared.
      max_failures: stop once more than this many rows have failed. If None, never stop.
      retry_failed: whether to retry rows that failed in an earlier run.
      threads: number of threads that read images.
      stop: an event that stops the run after the current step; set it from a signal handler or another
        thread.
      on_progress: called from another thread with the current `Progress` after each commit.
      on_phase: called with the new `Phase` at each change.

    Returns:
      A `BatchOutcome`. If an image cannot be read or has no finite score, its row gets status FAILED and a
      reason, and the run continues.

    Raises:
      ValueError, TypeError: an argument is invalid, or no image is usable.
      StoreError: the existing results were made with other settings; the message names the first
        difference.
      OutputError: the results cannot be written; committed rows are safe.
      TooManyFailures: more than `max_failures` rows failed.

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
    chosen = dict(settings or {})
    if isinstance(source, Photos) and source.white_level is not None:
        chosen["white_level"] = source.white_level
    config = run_config(explain, model, image_format, seed=seed, dtype=dtype, settings=chosen)
    target = _Target(out, config, resume)
    if sharding.is_first_process():
        target.check()
    leaves = result_leaves(explain, model, image_format)  # slow, because it traces the method
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
# Configuration: recorded in the results and compared when a run is resumed


def run_config(
    explain: ExplainFunction | Recipe,
    model: Any,
    image_format: ImageFormat,
    *,
    seed: int,
    dtype: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the JSON-serializable configuration shared by all rows of a store."""
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
    """Describe a function by its name, and a `functools.partial` or dataclass also by its arguments."""
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
    """Check that a store's configuration and, if `leaves` is given, its arrays match those of this run.

    Raises:
      StoreError: they differ; the message gives both values of the first setting that differs.
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
            f"{store.path} contains {_listed(store.leaves)}, but this run returns {_listed(leaves)}: "
            "choose another location for the results."
        )


def _flattened(config: Any, name: str = "") -> dict[str, Any]:
    """Flatten a nested configuration into settings with names such as "explain.size"."""
    if not isinstance(config, dict):
        return {name: config}
    parts = (_flattened(value, f"{name}.{key}" if name else key) for key, value in config.items())
    return {key: value for part in parts for key, value in part.items()}


def _listed(leaves: Mapping[str, LeafSpec]) -> str:
    return ", ".join(f"{name} {leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items())


class _Target(NamedTuple):
    """Destination of a run's results."""

    out: str | os.PathLike[str]
    config: Mapping[str, Any]
    resume: bool

    def check(self) -> None:
        """Check the location and any existing results before expensive work, without creating anything."""
        try:
            store = open_store(self.out)
        except FileNotFoundError:
            check_location(self.out)
        else:
            self._check_existing(store)

    def open(self, leaves: Mapping[str, LeafSpec], source: Dataset | Stream) -> tuple[ResultStore, int]:
        """Return the store, with a row for every known image, and the number of rows lost to damaged files.

        The first process creates the store while the others wait; then each process repairs its share.
        """
        if isinstance(source, Stream) and jax.process_count() > 1:
            raise ValueError(
                "several processes require a data set of known length: a list, a folder or a Dataset."
            )
        lost = self._create_or_extend(leaves, source) if sharding.is_first_process() else 0
        sharding.wait_for_all("jaxplain store")
        store = open_store(self.out)
        check_config(store, self.config, leaves)
        return store, lost + store.repair(sharding.own_chunks(store))

    def _create_or_extend(self, leaves: Mapping[str, LeafSpec], source: Dataset | Stream) -> int:
        """Create or extend the store; return the number of rows that had lost their identity."""
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
            raise StoreError(
                f"{store.path} already contains results; resume them, or choose another location."
            )
        check_config(store, self.config, leaves)


# ---------------------------------------------------------------------------------------------------------
# The loop over steps


@dataclass
class _Runner:
    """Explains the pending rows, one step at a time."""

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
        """Explain and commit rows until all are done, too many have failed, or `stop` is set."""
        writer = ResultWriter(self.plan.store, self.step.n_classes, self._committed)
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
                f"{_images(self.done)} explained, saved in {self.plan.store.path}."
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
    """Running means of the scalar results."""

    sums: dict[str, float]
    counts: dict[str, int]

    def add(self, leaves: Mapping[str, np.ndarray]) -> None:
        """Add the finite values from further rows."""
        for name, leaf in leaves.items():
            if leaf.ndim == 1 and leaf.dtype.kind == "f":
                finite = leaf[np.isfinite(leaf)]
                self.sums[name] = self.sums.get(name, 0.0) + float(finite.sum(dtype=np.float64))
                self.counts[name] = self.counts.get(name, 0) + finite.size

    def now(self) -> dict[str, float]:
        """Return the means so far."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}
