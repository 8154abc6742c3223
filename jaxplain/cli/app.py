"""The command line: `jaxplain explain`, `predict` and `demo`, and the commands of other modules of `cli`."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import numpy as np
import typer
from rich.table import Table

import jaxplain
from jaxplain import zoo
from jaxplain.cli import batch as batch_commands
from jaxplain.cli import compare as compare_command
from jaxplain.cli import process, screen
from jaxplain.cli import report as report_command
from jaxplain.cli import sag as sag_commands
from jaxplain.cli import xnn as xnn_commands
from jaxplain.cli.endings import INTERRUPTED, LEFT, WRONG, clear_errors, display_names, finish, table
from jaxplain.cli.loading import load_classifier
from jaxplain.cli.options import (
    START,
    Baseline,
    BatchSize,
    Images,
    Method,
    Model,
    Out,
    Seed,
    Target,
    Weights,
    check_method,
    examples,
    flow,
)
from jaxplain.cli.run import DEBUG, distinct, for_each, interruptible
from jaxplain.files import check_writable
from jaxplain.jobs.heatmap import Explanation, Job, Program, check_fits, compile_job, explain_photo
from jaxplain.jobs.heatmap_files import RECORD, save
from jaxplain.jobs.photos import Photo
from jaxplain.jobs.shelf import Shelf
from jaxplain.masks import PRESETS, Status
from jaxplain.zoo import Classifier

app = typer.Typer(
    help="Why does an image classifier decide as it does?",
    epilog=examples(
        "jaxplain demo", "jaxplain predict cat.jpg", "jaxplain explain cat.jpg", "jaxplain explain -h"
    )
    + "\n\nTry them in this order; the first needs no photo. Every command tells its options with -h.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RESULTS = Path("jaxplain-out")
_USUAL, _PAPER = (PRESETS["igos++"][name] for name in ("default", "paper"))


def main() -> NoReturn:
    """Entry point of the `jaxplain` command."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by who started us
        stream.reconfigure(errors="backslashreplace")
    process.quiet_jax()
    process.use_compilation_cache()
    asked = process.end_as_by_ctrl_c()
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            process.leave_at_once(128 + asked[-1] if asked else INTERRUPTED)
        raise
    except OSError as error:  # of a table or JSON; results have their own errors
        if os.environ.get(DEBUG):
            raise
        screen.say(f"cannot write the output: {error.strerror or error}. Send it elsewhere.", "error", "red")
        process.leave_at_once(WRONG)
    sys.exit()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"jaxplain {jaxplain.__version__} (jax {jax.__version__})")
        raise typer.Exit


@app.command(rich_help_panel=START, epilog=examples("jaxplain demo", "jaxplain demo --out somewhere"))
def demo(method: Method = "igos++", out_dir: Out = RESULTS) -> None:
    """Explain a photo of a cat that ships with scikit-image: the whole job, in about a minute."""
    with clear_errors():
        check_method(method)
        job = Job(method)
        classifier = load_classifier("efficientnet-lite0")
        _explain_all(job, classifier, [_demo_photo()], out_dir)


@app.command(rich_help_panel=START, epilog=examples("jaxplain predict cat.png dog.jpg --top 3"))
def predict(
    images: Images,
    model: Model = "efficientnet-lite0",
    weights: Weights = None,
    top: Annotated[int, typer.Option(metavar="N", help="Classes to show for each photo.", min=1)] = 5,
) -> None:
    """Show the most probable classes of photos: their names, their indices and probabilities (p)."""
    with clear_errors():
        classifier = load_classifier(model, weights)
        paths = distinct(images)
        names = display_names(paths)

        def rows(program: Callable[..., Any], photo: Photo) -> Iterator[tuple[str, ...]]:
            values = np.asarray(program(classifier, classifier.preprocess(photo.rgb)))
            for rank, index in enumerate(np.argsort(-values)[:top]):
                name = names[photo.path] if rank == 0 else ""
                yield name, classifier.labels[index], str(index), f"{values[index]:.4f}"

        tally = for_each(paths, partial(_compile_probabilities, classifier), rows)
    finish(tally, table("image", "class", ">index", ">p"), kept=LEFT)


@app.command(
    rich_help_panel=START,
    epilog=examples(
        "jaxplain explain cat.png",
        "jaxplain explain photos/*.jpg --target tabby --method igos --size 14",
        "jaxplain explain cat.png --preset paper --seed 1 --out slow",
        "jaxplain explain cat.png --model resnet50 --weights resnet50-0676ba61.pth",
    ),
)
def explain(
    images: Images,
    method: Method = "igos++",
    model: Model = "efficientnet-lite0",
    weights: Weights = None,
    target: Target = None,
    size: Annotated[
        int,
        typer.Option(
            metavar="N", help="Rows and columns of the heatmap's cells, from 1 to the model's input (224)."
        ),
    ] = 28,
    baseline: Baseline = "blur",
    seed: Seed = 0,
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Settings to start from, one of {', '.join(PRESETS['igos++'])}; paper is as published, and "
            "many times slower.",
        ),
    ] = "default",
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Pictures between the photo and the hidden one at which a gradient is taken, at least 1; "
            f"left out: the preset's, of igos++ {_USUAL.steps}, of paper {_PAPER.steps}.",
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Improvements of the heatmap, at least 1; left out: the preset's, of igos++ "
            f"{_USUAL.iterations}, of paper {_PAPER.iterations}.",
        ),
    ] = None,
    batch_size: BatchSize = None,
    out_dir: Out = RESULTS,
) -> None:
    """Explain photos: heatmap, overlay, deletion and insertion curves, and a record of how they were made.

    Each photo gets a folder; open panel.png in it first. Compiling takes up to a minute on a CPU, then a
    photo some seconds. A photo that fails does not stop the others; the exit status is then 1.
    """
    given = {
        "size": size,
        "preset": preset,
        "steps": steps,
        "iterations": iterations,
        "batch_size": batch_size,
    }
    options = {name: value for name, value in given.items() if value is not None}
    with clear_errors():
        check_method(method)
        job = Job(method, options, baseline=baseline, seed=seed)
        classifier = load_classifier(model, weights)
        if target is not None:
            job = replace(job, target=zoo.find_class(target, classifier.labels))
        _explain_all(job, classifier, images, out_dir)


def _demo_photo() -> Path:
    spec = find_spec("skimage")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        photo = Path(folder, "data", "chelsea.png")
        if photo.exists():
            return photo
    raise FileNotFoundError(
        'the demo photo is not installed: pip install "jaxplain[demo]", or give a photo of yours to jaxplain '
        "explain."
    )


def _compile_probabilities(classifier: Classifier) -> Callable[..., Any]:
    image = jax.ShapeDtypeStruct((*classifier.spec.size, 3), np.float32)
    probabilities = jax.jit(lambda model, image: jax.nn.softmax(model(image[None])[0]))
    return probabilities.lower(classifier, image).compile()


def _explain_all(job: Job, classifier: Classifier, images: list[Path], out_dir: Path) -> None:
    """Explain all photos through one compiled program, show a table, leave with the right exit status."""
    check_fits(job, classifier)
    check_writable(out_dir)
    paths = distinct(images)
    names, shelf = display_names(paths), Shelf(out_dir, paths, RECORD)
    remarks: list[str] = []

    def rows(program: Program, photo: Photo) -> Iterator[tuple[str, ...]]:
        found = interruptible(partial(explain_photo, program, photo.rgb))
        save(shelf.folder(photo), program, photo, found)
        if found.status is not Status.OK:
            remarks.append(f"{photo.path}: {found.status.message}")
        yield _row(names[photo.path], found)

    tally = for_each(paths, partial(compile_job, job, classifier), rows)
    kept = f"Their results are in {out_dir}. {LEFT}"
    finish(tally, _results_table(tally.program, out_dir), remarks, kept=kept)


# In the order of the help. The first of a group of commands brings the group.
report_command.register(app)
sag_commands.register(app)
xnn_commands.register(app)
compare_command.register(app)
batch_commands.register(app)
flow(app)


# ---------------------------------------------------------------------------------------------------------
# The end of a run


def _row(name: str, found: Explanation) -> tuple[str, ...]:
    curves = found.outcome.curves
    numbers = (found.outcome.probability, curves.deletion_area, curves.insertion_area)
    return name, found.label, *(f"{float(n):.3f}" for n in numbers), f"{found.seconds:.1f}"


def _results_table(program: Program | None, out_dir: Path) -> Table:
    shown = table("image", "class", ">p", ">deletion", ">insertion", ">seconds")
    if program is not None:
        shown.caption = screen.printable(
            f"Low deletion and high insertion are good. Compiled in {program.compile_seconds:.1f} s "
            f"for {jax.default_backend()}. Results in {out_dir}"
        )
    return shown
