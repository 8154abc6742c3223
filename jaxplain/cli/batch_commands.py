"""`jaxplain batch` and `jaxplain batch-report`: explain folders on all devices and summarize the results."""

import json
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import jax
import numpy as np
import typer
from jax.sharding import Mesh

from jaxplain import zoo
from jaxplain.checks import check_choice, check_seed
from jaxplain.cli import options, run, screen
from jaxplain.precision import DTYPES
from jaxplain.runs import batch as batches
from jaxplain.runs import sharding
from jaxplain.runs.batch import Phase
from jaxplain.runs.dataset import Photos
from jaxplain.runs.photos import photos_below
from jaxplain.runs.records import number
from jaxplain.runs.store import BatchReport, open_store, report_on

_SHOWN_REASONS = 10
_AUTO = "auto"

app = typer.Typer()


@app.command(
    rich_help_panel=options.MANY,
    epilog=options.examples(
        "jaxplain batch photos/ --out results.zarr",
        "jaxplain batch photos/ --method rise --per-device-batch 32 --dtype bfloat16",
        "srun jaxplain batch photos/ --coordinator auto --out /scratch/results.zarr",
    ),
)
def batch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"Explanation method: one of {options.METHOD_NAMES}, {sharding.SAG}."
        ),
    ] = "igos++",
    out: Annotated[str, typer.Option(metavar="PATH")] = "results.zarr",
    model: options.Model = "efficientnet-lite0",
    weights: options.Weights = None,
    labels: options.Labels = None,
    size: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    baseline: options.Baseline = "blur",
    target: options.Target = None,
    seed: options.Seed = 0,
    per_device_batch: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Floating-point format of the model, one of {', '.join(DTYPES)}; 16-bit formats use less "
            "memory.",
        ),
    ] = "float32",
    remat: Annotated[bool, typer.Option("--remat")] = False,
    mesh: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    white_level: options.WhiteLevel = None,
    max_failures: Annotated[int | None, typer.Option(metavar="N", min=0)] = None,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT")] = None,
    processes: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    process: Annotated[int | None, typer.Option(metavar="I", min=0)] = None,
) -> None:
    """Explain all photos in a folder on all devices; an interrupted run can be resumed.

    Run the same command again to resume. A photo that fails gets a row with the reason. After SIGTERM or
    Ctrl-C, the run completes the current step and keeps all results. Open them with zarr or xarray.

    Args:
      folder: Folder of photos; sub-folders are included.
      out: Where to write the results: a folder, or a URL such as gs://bucket/name.
      size: Number of rows and columns at which heatmaps are evaluated, and of the mask if the method
        optimizes one, from 1 to the model's input size (224); default: 28, or 7 (patches per side) for sag.
      per_device_batch: Images per device per step (smaller batches use less memory); default: 1 on a CPU, 16
        on an accelerator.
      remat: Recompute activations in the backward pass to save memory.
      mesh: Number of devices to use in each process; default: all.
      limit: Process only the first N photos in the folder; default: all.
      max_failures: Stop after more than N photos have failed; default: never.
      coordinator: Address of process 0 if several processes share the work, or auto to get it from SLURM,
        Open MPI or Cloud TPU; default: a single process.
      processes: Number of processes that share the work; omit with --coordinator auto.
      process: Index of this process, starting at 0; omit with --coordinator auto.
    """
    with run.clear_errors():
        recipe = sharding.make_recipe(method, size=size, baseline=baseline)
        check_seed(seed)
        check_choice(dtype, DTYPES, "dtype")
        _join(coordinator, processes, process)
        devices = _mesh(mesh)
        left_out = Counter[str]()
        with screen.waiting(f"looking for photos in {folder}"):
            paths = photos_below(folder, left_out)[:limit]
        run.show_left_out(left_out)
        classifier = run.load_classifier(model, weights, labels)
        index = None if target is None else zoo.find_class(target, classifier.labels)
        photos = Photos(paths, classifier, root=folder, target=index, white_level=white_level)
        with _stop_on_signals() as stop, screen.ProgressBar(len(paths)) as bar:

            def on_phase(phase: Phase) -> None:
                stop.after_step = phase is Phase.EXPLAINING
                bar.tell(phase.value)

            def on_progress(progress: batches.Progress) -> None:
                bar.advance(progress.before + progress.done + progress.failed - bar.done)
                bar.pace(_pace(progress))

            work = partial(
                batches.explain_dataset, recipe, classifier, photos,
                out=out, mesh=devices, per_device_batch=per_device_batch, seed=seed, dtype=dtype, remat=remat,
                settings={"target": index}, max_failures=max_failures,
                stop=stop.event, on_progress=on_progress, on_phase=on_phase,
            )  # fmt: skip
            try:
                outcome = run.interruptible(work)
            except KeyboardInterrupt:
                run.end_interrupted(f"committed results are kept in {out}. Resume with: {_command()}")
            except batches.TooManyFailures as error:  # the results are kept
                screen.say(f"{error} Run jaxplain batch-report to see the reasons.", "failed", "red")
                raise typer.Exit(run.FAILED) from None
    _finish(outcome, out, stop)


def _join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    if coordinator == _AUTO:
        sharding.join()
    elif coordinator is not None or processes is not None or process is not None:
        sharding.join(coordinator, processes, process)


def _mesh(devices: int | None) -> Mesh | None:
    if devices is None:
        return None
    local = jax.local_devices()
    if devices > len(local):
        raise ValueError(
            f"--mesh must be at most {len(local)}, the number of devices in this process; got {devices}."
        )
    return Mesh(np.array(local[:devices]), (sharding.DATA,))


class _StopRequest:
    """Signal handler that asks a run to stop."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None
        self.after_step = False  # whether steps have started; before that, Ctrl-C stops at once

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (not self.after_step or self.signal is not None):
            raise KeyboardInterrupt
        self.signal = number
        self.event.set()
        screen.say("stopping after the current step ... (press Ctrl-C to stop at once)")


@contextmanager
def _stop_on_signals() -> Iterator[_StopRequest]:
    """Make SIGTERM and Ctrl-C stop the run after the current step."""
    stop = _StopRequest()
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pace(progress: batches.Progress) -> str:
    parts = [f"{progress.images_per_second:.2f} images/s"]
    if np.isfinite(progress.seconds_left):
        parts.append(f"{_duration(progress.seconds_left)} left")
    for name in ("deletion", "insertion"):
        if (mean := progress.means.get(f"{name}_auc")) is not None:
            parts.append(f"{name} {mean:.3f}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    """Format a duration.

    Example:
      >>> _duration(45.2), _duration(3 * 3600 + 125)
      ('45 s', '3 h 02 min')
    """
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _command() -> str:
    """Return the command as it was typed."""
    return shlex.join(["jaxplain", *sys.argv[1:]])


def _finish(outcome: batches.BatchOutcome, out: str, stop: _StopRequest) -> None:
    progress = outcome.progress
    if outcome.repaired:
        rows = run.count_of(outcome.repaired, "row")
        screen.say(f"damaged files: {rows} had to be explained again.", "warning", "yellow")
    total = "" if progress.total is None else f" of {progress.total}"
    screen.say(
        f"{progress.before + progress.done}{total} photos explained, {progress.done} of them by this run in "
        f"{_duration(progress.seconds)} ({progress.images_per_second:.2f} images/s, compiled in "
        f"{outcome.compile_seconds:.0f} s); results in {out}"
    )
    if outcome.stopped:
        screen.say(f"resume with: {_command()}", "stopped", "yellow")
        raise typer.Exit(run.INTERRUPTED if stop.signal == signal.SIGINT else 0)
    if progress.failed:
        failed = run.count_of(progress.failed, "photo")
        screen.say(f"{failed} failed; run jaxplain batch-report {out} to see why.", "failed", "red")
        raise typer.Exit(run.FAILED)


@app.command(
    name="batch-report",
    rich_help_panel=options.MANY,
    epilog=options.examples(
        "jaxplain batch-report results.zarr", "jaxplain batch-report results.zarr --json"
    ),
)
def batch_report(
    results: Annotated[str, typer.Argument(metavar="RESULTS", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Summarize the results of a batch run: settings, number of photos, means, and reasons for failures.

    Args:
      results: Results of jaxplain batch (its --out).
      as_json: Print JSON instead of a table.
    """
    with run.clear_errors():
        report = report_on(open_store(results))
    if as_json:
        typer.echo(json.dumps(_record(report), indent=2))
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in report.rows.items())
    shown = run.table("mean of", ">mean", ">95% interval", ">photos")
    shown.title = screen.printable(f"{results}: {counts}")
    for name, mean in report.means.items():
        interval = f"{mean.low:.4f} to {mean.high:.4f}" if np.isfinite(mean.low) else "n/a"
        shown.add_row(screen.printable(name), f"{mean.mean:.4f}", interval, f"{mean.rows:,}")
    screen.show(shown)
    for name, value in report.config.items():
        screen.say(f"{name}: {value if isinstance(value, str | int) else json.dumps(value)}")
    for reason, count in list(report.reasons.items())[:_SHOWN_REASONS]:
        screen.say(f"{count:,} x {reason}", "failed", "red")
    if len(report.reasons) > _SHOWN_REASONS:
        hidden = run.count_of(len(report.reasons) - _SHOWN_REASONS, "more reason")
        screen.say(f"and {hidden} (use --json to see all)")


def _record(report: BatchReport) -> dict[str, Any]:
    means = {
        name: {part: number(value) for part, value in mean._asdict().items()}
        for name, mean in report.means.items()
    }
    return report._asdict() | {"means": means}
