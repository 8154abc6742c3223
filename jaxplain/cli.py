"""The command line: `jaxplain explain`, `jaxplain predict`, `jaxplain demo`."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

import jaxplain
from jaxplain import zoo
from jaxplain.explain import Explanation, Job, Program, compile_job, explain_photo, save
from jaxplain.files import OutputError, check_writable
from jaxplain.images import ImageError, load_image
from jaxplain.masks import METHODS, PRESETS, Status
from jaxplain.perturb import BASELINES
from jaxplain.scores import check_target
from jaxplain.zoo import Classifier, WeightsError

app = typer.Typer(
    help="Why does an image classifier decide as it does?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

Images = Annotated[list[Path], typer.Argument(help="Photos: JPEG, PNG, WebP, ...", show_default=False)]
Model = Annotated[str, typer.Option(help=f"One of {', '.join(zoo.model_names())}.")]
Weights = Annotated[
    Path | None, typer.Option(help="PyTorch or safetensors file; needed where no package ships weights.")
]
Out = Annotated[Path, typer.Option(help="Folder for the results, one sub-folder a photo.")]


class Failure(NamedTuple):
    """A photo that could not be explained."""

    path: Path
    reason: str


def main() -> None:
    """Entry point of the `jaxplain` command."""
    app()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        out.print(f"jaxplain {jaxplain.__version__} (jax {jax.__version__})")
        raise typer.Exit


@app.command(
    epilog="Examples: [bold]jaxplain explain cat.png[/] · "
    '[bold]jaxplain explain *.jpg --target "tabby" --method igos --size 14[/] · '
    "[bold]jaxplain explain cat.png --preset paper --seed 1 --out slow[/]"
)
def explain(
    images: Images,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "igos++",
    model: Model = "efficientnet-lite0",
    weights: Weights = None,
    target: Annotated[
        str | None, typer.Option(help="Class index or name; each photo's top prediction when left out.")
    ] = None,
    size: Annotated[int, typer.Option(help="Rows and columns of the mask.", min=1)] = 28,
    baseline: Annotated[str, typer.Option(help=f"What hides a pixel: {', '.join(BASELINES)}.")] = "blur",
    seed: Annotated[int, typer.Option(help="Of all randomness.", min=0)] = 0,
    preset: Annotated[str, typer.Option(help=f"Settings: {', '.join(PRESETS['igos++'])}.")] = "default",
    steps: Annotated[int | None, typer.Option(help="Nodes along the integration path.", min=1)] = None,
    iterations: Annotated[int | None, typer.Option(help="Optimisation steps.", min=1)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per model call; chosen by platform when left out.", min=1)
    ] = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder for the results, one sub-folder a photo.")
    ] = Path("jaxplain-out"),
) -> None:
    """Explain photos: heatmap, overlay, deletion and insertion curves, and a record of how they were made."""
    given = {
        "size": size,
        "preset": preset,
        "steps": steps,
        "iterations": iterations,
        "batch_size": batch_size,
    }
    options = {name: value for name, value in given.items() if value is not None}
    with _clear_errors():
        job = Job(method=method, options=options, baseline=baseline, seed=seed)
        check_writable(out_dir)
        classifier = zoo.load(model, weights=weights)
        job = _aimed(job, target, classifier)
        _check_size(job, classifier)
    _run(job, classifier, images, out_dir)


@app.command(epilog="Example: [bold]jaxplain predict cat.png dog.jpg --top 3[/]")
def predict(
    images: Images,
    model: Model = "efficientnet-lite0",
    weights: Weights = None,
    top: Annotated[int, typer.Option(help="Classes to show for each photo.", min=1)] = 5,
) -> None:
    """Show the most probable classes of photos."""
    with _clear_errors():
        classifier = zoo.load(model, weights=weights)
    _use_compilation_cache()
    probabilities = jax.jit(lambda model, image: jax.nn.softmax(model(image[None])[0]))
    table = Table("image", "class", "index", "probability")
    failures: list[Failure] = []
    for path in images:
        try:
            values = np.asarray(probabilities(classifier, classifier.preprocess(load_image(path))))
        except ImageError as error:
            failures.append(Failure(path, str(error)))
            continue
        for rank, index in enumerate(np.argsort(-values)[:top]):
            name = escape(path.name) if rank == 0 else ""
            table.add_row(name, classifier.labels[index], str(index), f"{values[index]:.4f}")
    _finish(table, failures, done=len(images) - len(failures))


@app.command(epilog="Example: [bold]jaxplain demo --out somewhere[/]")
def demo(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "igos++",
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("jaxplain-out"),
) -> None:
    """Explain a photo of a cat that ships with scikit-image: the whole job, in about a minute."""
    with _clear_errors():
        job = Job(method=method)
        check_writable(out_dir)
        classifier = zoo.load("efficientnet-lite0")
        photo = _demo_photo()
    _run(job, classifier, [photo], out_dir)


def _demo_photo() -> Path:
    spec = find_spec("skimage")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        photo = Path(folder, "data", "chelsea.png")
        if photo.exists():
            return photo
    raise FileNotFoundError('the demo photo is not installed: pip install "jaxplain[demo]"')


def _aimed(job: Job, target: str | None, classifier: Classifier) -> Job:
    if target is None:
        return job
    index = zoo.find_class(target, classifier.labels)
    check_target(index, len(classifier.labels))
    return Job(job.method, job.options, index, job.baseline, job.kind, job.seed, job.curve_steps)


def _check_size(job: Job, classifier: Classifier) -> None:
    side = job.options.get("size", 1)
    if side > min(classifier.spec.size):
        raise ValueError(f"size {side} is finer than the input of {classifier.name}, {classifier.spec.size}.")


def _run(job: Job, classifier: Classifier, images: list[Path], out_dir: Path) -> None:
    """Explain all photos through one compiled program; a photo that fails does not stop the others."""
    _use_compilation_cache()
    table = Table("image", "class", "probability", "deletion ↓", "insertion ↑", "seconds", "status")
    failures: list[Failure] = []
    program: Program | None = None
    folders = _folder_names(images)
    with _progress() as progress:
        task = progress.add_task("reading", total=len(images))
        for path in images:
            try:
                rgb = load_image(path)
                if program is None:
                    progress.update(task, description="compiling")
                    program = compile_job(job, classifier)
                progress.update(task, description=escape(path.name))
                found = explain_photo(job, classifier, program, rgb)
                save(out_dir / folders[path], job, classifier, program, path, found)
            except (ImageError, OutputError) as error:
                failures.append(Failure(path, str(error)))
            else:
                table.add_row(*_row(path, found))
                _warn(path, found)
            progress.advance(task)
    done = len(images) - len(failures)
    if done and program is not None:
        table.caption = f"compiled in {program.compile_seconds:.1f} s · results in {escape(str(out_dir))}"
    _finish(table, failures, done)


def _folder_names(images: list[Path]) -> dict[Path, str]:
    """A folder name for each photo: its stem, or its whole name, or a numbered one where stems repeat."""
    stems = Counter(path.stem for path in dict.fromkeys(images))
    names: dict[Path, str] = {}
    for path in dict.fromkeys(images):
        name = path.stem if stems[path.stem] == 1 else path.name
        number = 2
        while name in names.values():
            name, number = f"{path.name}-{number}", number + 1
        names[path] = name
    return names


def _row(path: Path, found: Explanation) -> tuple[str, ...]:
    curves = found.outcome.curves
    return (
        escape(path.name),
        escape(found.label),
        f"{float(found.outcome.probability):.3f}",
        f"{float(curves.deletion_area):.3f}",
        f"{float(curves.insertion_area):.3f}",
        f"{found.seconds:.1f}",
        found.status.name.lower().replace("_", " "),
    )


def _warn(path: Path, found: Explanation) -> None:
    if found.status is not Status.OK:
        err.print(f"[yellow]warning[/] {escape(path.name)}: {found.status.message}")


def _finish(table: Table, failures: list[Failure], done: int) -> None:
    """Print what came out and what failed; exit with status 1 if anything did."""
    if done:
        out.print(table)
    for failure in failures:
        err.print(f"[red]failed[/] {escape(failure.reason)}")
    if failures:
        err.print(f"{len(failures)} of {len(failures) + done} photos failed.")
        raise typer.Exit(1)


def _progress() -> Progress:
    """A bar on standard error, gone when done; nothing where nobody watches."""
    columns: tuple[Any, ...] = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Wrong options and missing files end the command with one plain sentence and status 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, WeightsError) as error:
        err.print(f"[red]error[/] {escape(str(error))}")
        raise typer.Exit(2) from None


def _use_compilation_cache() -> None:
    """Keep compiled programs between runs, where JAX's own setting does not say where already."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "jaxplain" / "jax"))
