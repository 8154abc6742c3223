"""The commands `jaxplain explain`, `predict` and `demo`."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.table import Table

from jaxplain import overlay, zoo
from jaxplain.checks import check_choice
from jaxplain.cli import options, run, screen
from jaxplain.explanation import Status
from jaxplain.files import check_writable
from jaxplain.runs.heatmap_runs import (
    PRESETS,
    RECORD,
    ExplainedPhoto,
    HeatmapProgram,
    HeatmapSettings,
    check_fits,
    compile_heatmaps,
    explain_photo,
    heatmap_files,
)
from jaxplain.runs.photos import Photo, distinct
from jaxplain.runs.sinks import PhotoFolders, write_folder
from jaxplain.scores import as_logits, probabilities

RESULTS = Path("jaxplain-out")

app = typer.Typer()


@app.command(
    rich_help_panel=options.START,
    epilog=options.examples("jaxplain demo", "jaxplain demo --method grad-cam --out cat"),
)
def demo(method: options.Method = "igos++", out_dir: options.Out = RESULTS) -> None:
    """Explain a sample photo of a cat, which comes with scikit-image.

    This takes less than a minute on a CPU.
    """
    with run.clear_errors():
        settings = HeatmapSettings(method)
        photo = _demo_photo()
        _explain_all(settings, run.load_classifier("efficientnet-lite0"), [photo], out_dir)


@app.command(
    rich_help_panel=options.START, epilog=options.examples("jaxplain predict cat.png dog.jpg --top 3")
)
def predict(
    images: options.Images,
    model: options.Model = "efficientnet-lite0",
    weights: options.Weights = None,
    labels: options.Labels = None,
    top: Annotated[int, typer.Option(metavar="N", min=1)] = 5,
    white_level: options.WhiteLevel = None,
) -> None:
    """Show the most probable classes of each photo: names, indices and probabilities (p).

    Args:
      top: Number of classes to show for each photo.
    """
    with run.clear_errors():
        classifier = run.load_classifier(model, weights, labels)
        paths = distinct(images)
        names = run.display_names(paths)

        def rows(program: Callable[..., Any], photo: Photo) -> Iterator[tuple[str, ...]]:
            values = np.asarray(program(classifier, classifier.preprocess(photo.rgb)))
            for rank, index in enumerate(np.argsort(-values)[:top]):
                name = names[photo.path] if rank == 0 else ""
                yield name, classifier.labels[index], str(index), f"{values[index]:.4f}"

        tally = run.for_each(
            paths, partial(_compile_probabilities, classifier), rows, white_level=white_level
        )
    run.finish(tally, run.table("image", "class", ">index", ">p"), kept=run.LEFT)


@app.command(
    rich_help_panel=options.START,
    epilog=options.examples(
        "jaxplain explain cat.png",
        "jaxplain explain photos/*.jpg --target tabby --method igos --size 14",
        "jaxplain explain cat.png --preset paper --seed 1 --out slow",
        "jaxplain explain cat.png --model resnet50 --weights resnet50-0676ba61.pth --method grad-cam",
    ),
)
def explain(
    images: options.Images,
    method: options.Method = "igos++",
    model: options.Model = "efficientnet-lite0",
    weights: options.Weights = None,
    labels: options.Labels = None,
    target: options.Target = None,
    size: Annotated[int | None, typer.Option(metavar="N")] = None,
    baseline: options.Baseline = "blur",
    seed: options.Seed = 0,
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Base settings: one of {', '.join(PRESETS)}; paper uses the published settings and is many "
            "times slower.",
        ),
    ] = "default",
    steps: Annotated[int | None, typer.Option(metavar="N")] = None,
    iterations: Annotated[int | None, typer.Option(metavar="N")] = None,
    batch_size: options.BatchSize = None,
    white_level: options.WhiteLevel = None,
    figure_format: options.FigureFormat = "png",
    out_dir: options.Out = RESULTS,
) -> None:
    """Explain photos with heatmaps, overlays, and deletion and insertion curves.

    Each photo gets its own folder, which also records all settings; open panel.png first. On a CPU,
    compilation takes up to a minute, then each photo takes a few seconds. A photo that fails does not stop
    the others, but the exit status is then 1.

    Args:
      size: Number of rows and columns of the heatmap, from 1 to the model's input size (224), for methods
        that optimize a mask; default: set by the method (28 for igos++).
      steps: Number of steps on the integration path (at least 1), for methods that integrate gradients;
        default: set by the preset.
      iterations: Number of optimization steps (at least 1), for methods that optimize a mask; default: set by
        the preset.
    """
    given = {"size": size, "n_steps": steps, "iterations": iterations, "batch_size": batch_size}
    chosen = {name: value for name, value in given.items() if value is not None}
    with run.clear_errors():
        check_choice(figure_format, options.FIGURE_FORMATS, "figure format")
        settings = HeatmapSettings(method, chosen, preset, baseline=baseline, seed=seed)
        classifier = run.load_classifier(model, weights, labels)
        if target is not None:
            settings = replace(settings, target=zoo.find_class(target, classifier.labels))
        _explain_all(settings, classifier, images, out_dir, figure_format, white_level)


def _demo_photo() -> Path:
    spec = find_spec("skimage")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        photo = Path(folder, "data", "chelsea.png")
        if photo.exists():
            return photo
    raise FileNotFoundError(
        'the demo photo is not installed: run pip install "jaxplain[demo]", or run jaxplain explain on a '
        "photo of your own."
    )


def _compile_probabilities(classifier: zoo.ZooClassifier) -> Callable[..., Any]:
    image = jax.ShapeDtypeStruct((*classifier.spec.size, 3), np.float32)
    compiled = jax.jit(lambda model, image: probabilities(as_logits(model(image[None]), image[None]))[0])
    return compiled.lower(classifier, image).compile()


def _explain_all(
    settings: HeatmapSettings,
    classifier: zoo.ZooClassifier,
    images: list[Path],
    out_dir: Path,
    figure_format: str = "png",
    white_level: float | None = None,
) -> None:
    """Explain all photos with the same compiled programs, show a table, and set the exit status."""
    check_fits(settings, classifier)
    check_writable(out_dir)
    paths = distinct(images)
    names, folders = run.display_names(paths), PhotoFolders(out_dir, paths, RECORD)
    remarks: list[str] = []

    def rows(program: HeatmapProgram, photo: Photo) -> Iterator[tuple[str, ...]]:
        explained = run.interruptible(partial(explain_photo, program, photo.rgb))
        contents = pictures(program, explained, figure_format) | heatmap_files(program, photo, explained)
        write_folder(folders.folder(photo), contents, RECORD)
        if explained.status is not Status.OK:
            remarks.append(f"{photo.path}: {explained.status.message}")
        yield _row(names[photo.path], explained)

    # Import matplotlib, which draws the images, while XLA compiles and the interpreter is idle.
    Thread(target=import_module, args=["jaxplain.report.figures"], daemon=True).start()
    tally = run.for_each(
        paths, partial(compile_heatmaps, settings, classifier), rows, white_level=white_level
    )
    kept = f"Their results are in {out_dir}. {run.LEFT}"
    run.finish(tally, _results_table(tally.program, out_dir), remarks, kept=kept)


def pictures(
    program: HeatmapProgram, explained: ExplainedPhoto, figure_format: str = "png"
) -> dict[str, bytes]:
    """Draw the panel, overlay.png, heatmap.png, and photo.png (the photo as the model sees it)."""
    from jaxplain.report import figures  # imports matplotlib, which only this function needs

    pixels, importance = explained.view.pixels, explained.explanation.importance
    panel = figures.panel(
        pixels,
        importance,
        explained.curves,
        label=explained.label,
        probability=explained.view.probability,
        method=program.settings.spec.title,
    )
    return {
        "photo.png": overlay.to_png(pixels),
        "heatmap.png": overlay.to_png(overlay.heatmap(importance, pixels.shape[:2])),
        "overlay.png": overlay.to_png(overlay.overlay(pixels, importance)),
        f"panel.{figure_format}": figures.figure_bytes(panel, figure_format),
    }


def _row(name: str, explained: ExplainedPhoto) -> tuple[str, ...]:
    curves = explained.curves
    numbers = (explained.view.probability, curves.deletion_auc, curves.insertion_auc)
    return name, explained.label, *(f"{float(value):.3f}" for value in numbers), f"{explained.seconds:.1f}"


def _results_table(program: HeatmapProgram | None, out_dir: Path) -> Table:
    shown = run.table("image", "class", ">p", ">deletion", ">insertion", ">seconds")
    if program is not None:
        shown.caption = screen.printable(
            f"Lower deletion and higher insertion are better. Compiled in {program.compile_seconds:.1f} s "
            f"for {jax.default_backend()}. Results in {out_dir}"
        )
    return shown
