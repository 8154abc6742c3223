"""`jaxplain report`: everything about a photo on one page."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jax
import typer

from jaxplain import zoo
from jaxplain.cli import options, run, screen
from jaxplain.files import OutputError, check_writable, write_atomic
from jaxplain.methods import choose
from jaxplain.runs.graph_runs import GraphedPhoto
from jaxplain.runs.photos import Photo, distinct
from jaxplain.runs.report_runs import (
    DEFAULT_METHODS,
    PhotoReport,
    ReportProgram,
    ReportSettings,
    check_report,
    compile_report,
    report_photo,
)

if TYPE_CHECKING:
    from jaxplain.report.pages import Section

_MARK = b'<meta name="generator" content="jaxplain report">'  # marks a file that may be overwritten
_MARK_WITHIN = 1000  # number of bytes at the start of the file that are searched for the mark

app = typer.Typer()


@app.command(
    name="report",
    rich_help_panel=options.START,
    epilog=options.examples(
        "jaxplain report cat.png",
        "jaxplain report photos/*.jpg --methods grad-cam,rise,igos++ --no-sag --out photos.html",
        "jaxplain report cat.png --target 'tiger cat' --baseline black --seed 1",
    ),
)
def make_report(
    images: options.Images,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help=f"Methods to compare: all, or any of {options.METHOD_NAMES}.",
            show_default=", ".join(DEFAULT_METHODS),
        ),
    ] = ",".join(DEFAULT_METHODS),
    model: options.Model = "efficientnet-lite0",
    weights: options.Weights = None,
    labels: options.Labels = None,
    target: options.Target = None,
    size: Annotated[int, typer.Option(metavar="N")] = 28,
    baseline: options.Baseline = "blur",
    seed: options.Seed = 0,
    sanity: Annotated[bool, typer.Option("--sanity/--no-sanity")] = True,
    sag: Annotated[bool, typer.Option("--sag/--no-sag")] = True,
    white_level: options.WhiteLevel = None,
    out: Annotated[Path, typer.Option(metavar="FILE")] = Path("report.html"),
) -> None:
    """Create a report with everything about a photo, as a single file that can be shared.

    The report shows the prediction; heatmaps from several methods, with their deletion and insertion curves;
    a check of whether the heatmaps depend on the network at all; a graph of the sets of patches that each
    suffice alone; and settings and timings. Every figure comes with instructions for reading it. Several
    photos become sections of the same page.

    A photo takes a few minutes on a CPU; for a faster report, use --no-sag, --no-sanity or fewer --methods.
    If a method fails, the report gives the reason. A photo that fails does not stop the others, but the exit
    status is then 1.

    Args:
      size: Height and width, in pixels, at which heatmaps are displayed and evaluated, from 1 to the model's
        input size (224).
      sanity: As a sanity check, recompute every heatmap after shuffling the network's parameters.
      sag: Add an attention graph: sets of patches that each suffice alone.
      out: Output file: a single .html page with one section per photo.
    """
    with run.clear_errors():
        chosen = tuple(choose(options.split_names(methods, "methods")))
        settings = ReportSettings(chosen, size, baseline=baseline, seed=seed, sanity=sanity, sag=sag)
        classifier = run.load_classifier(model, weights, labels)
        if target is not None:
            settings = replace(settings, target=zoo.find_class(target, classifier.labels))
        check_report(settings, classifier)
        _check_page(out)
        _report_all(settings, classifier, distinct(images), out, white_level)


def _report_all(
    settings: ReportSettings,
    classifier: zoo.ZooClassifier,
    paths: list[Path],
    out: Path,
    white_level: float | None,
) -> None:
    """Add all photos to the report with the same compiled programs, show a table, and set the exit status."""
    from jaxplain.report import document  # imports matplotlib and jinja2, which other commands do not need

    names = run.display_names(paths)
    bar = screen.ProgressBar(len(paths))
    sections: list[Section] = []
    remarks: list[str] = []

    def rows(program: ReportProgram, photo: Photo) -> Iterator[tuple[str, ...]]:
        def on_progress(doing: str) -> None:
            bar.tell(f"{names[photo.path]}: {doing}")

        report = run.interruptible(partial(report_photo, program, photo.rgb, on_progress))
        added = [*sections, document.section(program, photo, report, len(sections) + 1)]
        # Write the page after every photo, so that Ctrl-C loses no finished photo.
        _write(out, document.page(program, added))
        sections[:] = added
        remarks.extend(_remarks(photo.path, report))
        passed = sum(document.verdict(entry.check) == "passes" for entry in report.methods)
        yield _row(names[photo.path], program, report, passed)

    prepare = partial(compile_report, settings, classifier, bar.tell)
    tally = run.for_each(paths, prepare, rows, bar, white_level=white_level)
    if sections and tally.failures:
        notes = [f"Not on this page: {failure}" for failure in tally.failures]
        with suppress(OutputError):  # the page exists; the failures are also shown on the screen
            _write(out, document.page(tally.program, sections, notes))
    shown = run.table("image", "class", ">p", ">maps", ">pass sanity", ">explanations", ">seconds")
    if tally.program is not None:
        shown.caption = screen.printable(
            f"Compiled in {tally.program.compile_seconds:.1f} s for {jax.default_backend()}. "
            f"Open {out} in a browser."
        )
    kept = f"They are in {out}. To start the page over, run the same command again."
    run.finish(tally, shown, remarks, kept=kept)


def _check_page(out: Path) -> None:
    """Refuse a path that does not end in .html, and an existing file that is not a jaxplain report."""
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise ValueError(f"--out must be a file that ends in .html, got {out}.")
    if out.exists():
        with open(out, "rb") as file:
            if _MARK not in file.read(_MARK_WITHIN):
                raise ValueError(
                    f"{out} exists and is not a jaxplain report; choose another name with --out."
                )
    check_writable(out.parent)


def _write(out: Path, text: str) -> None:
    """Write the page; undecodable bytes of a file name are escaped."""
    write_atomic(out, text.encode(errors="backslashreplace"))


def _row(name: str, program: ReportProgram, report: PhotoReport, passed: int) -> tuple[str, ...]:
    maps = sum(not entry.reason for entry in report.methods)
    graph = report.graph
    return (
        name,
        program.engine.label(report.view),
        f"{report.view.probability:.3f}",
        f"{maps} of {len(report.methods)}",
        "-" if report.control is None else str(passed),
        str(len(graph.summary.sizes)) if isinstance(graph, GraphedPhoto) else "-",
        f"{report.seconds:.1f}",
    )


def _remarks(path: Path, report: PhotoReport) -> Iterator[str]:
    """Yield the failures of a photo's methods and of its attention graph."""
    for entry in report.methods:
        if entry.reason:
            yield f"{path}: {entry.method}: {entry.reason}"
    if isinstance(report.graph, str):
        yield f"{path}: attention graph: {report.graph}"
