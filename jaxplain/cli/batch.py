"""`jaxplain batch` and `jaxplain batch-report`: whole folders on all devices, and what came of them."""

import json
import shlex
import signal
import sys
import threading
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

from jaxplain import batch as batches
from jaxplain import zoo
from jaxplain.batch.dataset import photos_below
from jaxplain.batch.recipes import CHOICES
from jaxplain.batch.report import Report, report
from jaxplain.checks import check_choice
from jaxplain.cli import screen
from jaxplain.cli.endings import FAILED, INTERRUPTED, clear_errors, end_interrupted, table
from jaxplain.cli.loading import load_classifier
from jaxplain.cli.options import MANY, Baseline, Model, Seed, Target, Weights, examples
from jaxplain.cli.run import interruptible
from jaxplain.jobs.photos import check_seed
from jaxplain.jobs.records import number
from jaxplain.precision import DTYPES

_SHOWN_REASONS = 10
_AUTO = "auto"
_EXPLAINING = "explaining"  # of what `explain_dataset` says that it does


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    root.command(
        rich_help_panel=MANY,
        epilog=examples(
            "jaxplain batch photos/ --out results.zarr",
            "jaxplain batch photos/ --method rise --per-device-batch 32 --dtype bfloat16",
            "srun jaxplain batch photos/ --coordinator auto --out /scratch/results.zarr",
        ),
    )(batch)
    root.command(
        name="batch-report",
        rich_help_panel=MANY,
        epilog=examples("jaxplain batch-report results.zarr", "jaxplain batch-report results.zarr --json"),
    )(batch_report)


def batch(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of photos, sub-folders included.", show_default=False),
    ],
    method: Annotated[
        str, typer.Option(metavar="NAME", help=f"How each photo is explained, one of {', '.join(CHOICES)}.")
    ] = "igos++",
    out: Annotated[
        str, typer.Option(metavar="PATH", help="Results: a folder, or an address such as gs://bucket/name.")
    ] = "results.zarr",
    model: Model = "efficientnet-lite0",
    weights: Weights = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Rows and columns of the heatmap's cells, up to the model's input (224); left out: 28, and "
            "7 patches of sag.",
            min=1,
        ),
    ] = None,
    baseline: Baseline = "blur",
    target: Target = None,
    seed: Seed = 0,
    per_device_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Photos that a device explains at a time; fewer need less memory. Left out: 1 on a CPU, 16 "
            "elsewhere.",
            min=1,
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Numbers that the model computes in, one of {', '.join(DTYPES)}; 16 bits need less memory.",
        ),
    ] = "float32",
    remat: Annotated[
        bool, typer.Option("--remat", help="Compute activations again in the backward pass: less memory.")
    ] = False,
    mesh: Annotated[
        int | None,
        typer.Option(metavar="N", help="Devices (GPUs) of each process to use; left out: all.", min=1),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Only the first photos of the folder; left out: all.", min=1),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option(metavar="N", help="End once more photos than this have failed; left out: go on.", min=0),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Only where several processes share the work: the address of process 0, or auto to ask "
            "SLURM, Open MPI or Cloud TPU.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many processes share the work; not with auto.", min=1),
    ] = None,
    process: Annotated[
        int | None,
        typer.Option(metavar="I", help="Which of them this is, from 0; not with auto.", min=0),
    ] = None,
) -> None:
    """Explain a whole folder on all devices, into results that survive being killed.

    The same command goes on where it stopped. A photo that fails is a row with its reason. SIGTERM ends after
    the present step with everything kept. The results open in zarr and xarray.
    """
    with clear_errors(), _too_many():
        recipe = batches.make_recipe(method, size=size, baseline=baseline)
        check_seed(seed)
        check_choice(dtype, DTYPES, "dtype")
        _join(coordinator, processes, process)
        devices = _mesh(mesh)
        with screen.waiting(f"looking for photos in {folder}"):
            paths = photos_below(folder)[:limit]
        classifier = load_classifier(model, weights)
        chosen = None if target is None else zoo.find_class(target, classifier.labels)
        photos = batches.Photos(paths, classifier, root=folder, target=chosen)
        with _stopping() as stop, screen.Bar(len(photos.identities)) as bar:

            def doing(what: str) -> None:
                stop.at_once = what != _EXPLAINING
                bar.tell(what)

            run = partial(
                batches.explain_dataset, recipe, classifier, photos,
                out=out, mesh=devices, per_device_batch=per_device_batch, seed=seed, dtype=dtype, remat=remat,
                settings={"target": chosen}, max_failures=max_failures,
                stop=stop.event, tell=_Told(bar), doing=doing,
            )  # fmt: skip
            try:
                outcome = interruptible(run)
            except KeyboardInterrupt:
                end_interrupted(f"what is committed stays in {out}. Resume with: {_command()}")
    _finish(outcome, out, stop)


@contextmanager
def _too_many() -> Iterator[None]:
    """A run that gives up says so; what it did is kept."""
    try:
        yield
    except batches.TooManyFailures as error:
        screen.say(f"{error} jaxplain batch-report shows the reasons.", "failed", "red")
        raise typer.Exit(FAILED) from None


def _join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    if coordinator == _AUTO:
        batches.join()
    elif coordinator is not None or processes is not None or process is not None:
        batches.join(coordinator, processes, process)


def _mesh(devices: int | None) -> Mesh | None:
    if devices is None:
        return None
    found = jax.local_devices()
    if devices > len(found):
        raise ValueError(f"--mesh must be at most {len(found)}, the devices of this process, got {devices}.")
    return Mesh(np.array(found[:devices]), ("data",))


class _Stop:
    """Signals that asked for the end."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None
        self.at_once = True  # before the first step, which alone is worth waiting for

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self.at_once or self.signal is not None):
            raise KeyboardInterrupt
        self.signal = number
        self.event.set()
        screen.say("stopping after the present step ... (Ctrl-C stops at once)")


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """SIGTERM and Ctrl-C end the run after the present step."""
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Told:
    """Shows progress: a bar on a terminal, a line now and then in a log."""

    def __init__(self, bar: screen.Bar) -> None:
        self._bar, self._shown = bar, 0

    def __call__(self, progress: batches.Progress) -> None:
        through = progress.before + progress.done + progress.failed
        self._bar.advance(through - self._shown)
        self._shown = through
        self._bar.pace(_pace(progress))


def _pace(progress: batches.Progress) -> str:
    parts = [f"{progress.images_per_second:.2f} images/s"]
    if np.isfinite(progress.seconds_left):
        parts.append(f"{_duration(progress.seconds_left)} left")
    for name in ("deletion", "insertion"):
        if (mean := progress.means.get(f"{name}_area")) is not None:
            parts.append(f"{name} {mean:.3f}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds as people say them.

    Example:
      >>> _duration(45.2), _duration(3 * 3600 + 125)
      ('45 s', '3 h 02 min')
    """
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _command() -> str:
    """What was typed."""
    return shlex.join(["jaxplain", *sys.argv[1:]])


def _finish(outcome: batches.Outcome, out: str, stop: _Stop) -> None:
    progress = outcome.progress
    if outcome.mended:
        screen.say(f"{outcome.mended} rows had damaged files and were done again.", "warning", "yellow")
    total = "" if progress.total is None else f" of {progress.total}"
    screen.say(
        f"{progress.before + progress.done}{total} photos explained, {progress.done} of them now in "
        f"{_duration(progress.seconds)} ({progress.images_per_second:.2f} images/s, compiled in "
        f"{outcome.compile_seconds:.0f} s); results in {out}"
    )
    if outcome.stopped:
        screen.say(f"resume with: {_command()}", "stopped", "yellow")
        raise typer.Exit(INTERRUPTED if stop.signal == signal.SIGINT else 0)
    if progress.failed:
        screen.say(f"{progress.failed} photos failed; jaxplain batch-report {out} says why.", "failed", "red")
        raise typer.Exit(FAILED)


def batch_report(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="What jaxplain batch --out wrote.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what came of a run: how it was made, how many rows, their means, why some failed."""
    with clear_errors():
        found = report(batches.open_store(results))
    if as_json:
        typer.echo(json.dumps(_record(found), indent=2))
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in found.rows.items())
    shown = table("mean of", ">mean", ">95% interval", ">photos")
    shown.title = screen.printable(f"{results}: {counts}")
    for name, mean in found.means.items():
        interval = f"{mean.low:.4f} to {mean.high:.4f}" if np.isfinite(mean.low) else "n/a"
        shown.add_row(screen.printable(name), f"{mean.mean:.4f}", interval, f"{mean.rows:,}")
    screen.show(shown)
    for name, value in found.config.items():
        screen.say(f"{name}: {value if isinstance(value, str | int) else json.dumps(value)}")
    for reason, count in list(found.reasons.items())[:_SHOWN_REASONS]:
        screen.say(f"{count:,} x {reason}", "failed", "red")
    if len(found.reasons) > _SHOWN_REASONS:
        screen.say(f"and {len(found.reasons) - _SHOWN_REASONS} other reasons (--json shows all)")


def _record(found: Report) -> dict[str, Any]:
    means = {
        name: {part: number(value) for part, value in mean._asdict().items()}
        for name, mean in found.means.items()
    }
    return found._asdict() | {"means": means}
