"""`jaxplain report`: everything about a photo on one page."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import typer

from jaxplain import compare as comparison
from jaxplain import render, zoo
from jaxplain.cli import screen
from jaxplain.cli.endings import clear_errors, display_names, finish, table
from jaxplain.cli.loading import load_classifier
from jaxplain.cli.options import (
    START,
    Baseline,
    Images,
    Model,
    Seed,
    Target,
    Weights,
    examples,
    split_names,
)
from jaxplain.cli.run import distinct, for_each, interruptible
from jaxplain.files import OutputError, check_writable, write_atomic
from jaxplain.jobs.photos import Photo
from jaxplain.jobs.report import (
    DEFAULT_METHODS,
    PhotoReport,
    ReportJob,
    ReportProgram,
    check_fits,
    compile_report,
    explain_report,
)
from jaxplain.jobs.report_page import page, report
from jaxplain.jobs.sag import SagExplanation
from jaxplain.render.report import Report, Section

_MARK = b'<meta name="generator" content="jaxplain report">'  # of what may be replaced
_MARK_WITHIN = 1000  # bytes from the beginning


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    root.command(
        name="report",
        rich_help_panel=START,
        epilog=examples(
            "jaxplain report cat.png",
            "jaxplain report photos/*.jpg --methods grad_cam,rise,igos++ --no-sag --out photos.html",
            "jaxplain report cat.png --target 'tiger cat' --baseline black --seed 1",
        ),
    )(make_report)


def make_report(
    images: Images,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help=f"The heatmaps: all, or some of {', '.join(comparison.METHODS)}. Quote a name with spaces.",
            show_default=", ".join(DEFAULT_METHODS),
        ),
    ] = ",".join(DEFAULT_METHODS),
    model: Model = "efficientnet-lite0",
    weights: Weights = None,
    target: Target = None,
    size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Rows and columns of the heatmaps as shown and measured, from 1 to the model's input (224).",
        ),
    ] = 28,
    baseline: Baseline = "blur",
    seed: Seed = 0,
    sanity: Annotated[
        bool,
        typer.Option(
            "--sanity/--no-sanity", help="Every heatmap once more, of a network that knows nothing."
        ),
    ] = True,
    sag: Annotated[
        bool, typer.Option("--sag/--no-sag", help="The attention graph: which patches alone suffice.")
    ] = True,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The page, one .html file; several photos are sections of it."),
    ] = Path("report.html"),
) -> None:
    """One page with everything about a photo, that needs nothing else and can be handed over.

    The prediction; heatmaps of several methods side by side with their deletion and insertion curves; a check
    whether they are about the network at all; the patches that alone suffice, as a graph; settings and
    timings. Each figure says how to read it. Several photos become sections of the same page.

    A photo takes some minutes on a CPU; --no-sag, --no-sanity and fewer --methods make it faster. A method
    that fails is shown with its reason. A photo that fails does not stop the others; the exit status is then
    1.
    """
    with clear_errors():
        chosen = tuple(comparison.choose_methods(split_names(methods, "methods")))
        job = ReportJob(chosen, size, baseline=baseline, seed=seed, sanity=sanity, sag=sag)
        classifier = load_classifier(model, weights)
        if target is not None:
            job = replace(job, target=zoo.find_class(target, classifier.labels))
        check_fits(job, classifier)
        _check_page(out)
        paths = distinct(images)
        names = display_names(paths)
        voice = _Voice()
        sections: list[Section] = []
        remarks: list[str] = []

        def rows(program: ReportProgram, photo: Photo) -> Iterator[tuple[str, ...]]:
            def tell(doing: str) -> None:
                voice.tell(f"{names[photo.path]}: {doing}")

            found = interruptible(partial(explain_report, program, photo.rgb, tell))
            part = report(program, photo, found)
            added = [*sections, render.report_section(part, len(sections) + 1)]
            _write(out, page(program, added))  # after every photo, so that Ctrl-C costs none
            sections[:] = added
            remarks.extend(_remarks(photo.path, found))
            yield _row(names[photo.path], part, found)

        prepare = partial(compile_report, job, classifier, voice.tell)
        tally = for_each(paths, prepare, rows, voice.lend)
        if sections and tally.failures:
            notes = [f"Not on this page: {failure}" for failure in tally.failures]
            with suppress(OutputError):  # the page is there; the photo that could not be added is told
                _write(out, page(tally.program, sections, notes))
    shown = table("image", "class", ">p", ">maps", ">pass sanity", ">explanations", ">seconds")
    if tally.program is not None:
        shown.caption = screen.printable(
            f"Compiled in {tally.program.compile_seconds:.1f} s for {jax.default_backend()}. "
            f"Open {out} in a browser."
        )
    finish(tally, shown, remarks, kept=f"They are in {out}; the same command makes the whole page anew.")


class _Voice:
    """Says what is being done, once the run has a bar to say it with."""

    def __init__(self) -> None:
        self._tell: Callable[[str], None] = lambda doing: None

    def lend(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def tell(self, doing: str) -> None:
        self._tell(doing)


def _check_page(out: Path) -> None:
    """Refuse what is no page, or somebody else's, before minutes are spent on it."""
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise ValueError(f"--out must be a file that ends in .html, got {out}.")
    if out.exists():
        with open(out, "rb") as file:
            if _MARK not in file.read(_MARK_WITHIN):
                raise ValueError(f"{out} is there and no report of jaxplain; choose another name with --out.")
    check_writable(out.parent)


def _write(out: Path, text: str) -> None:
    """Bytes of a file name that are no text are shown escaped."""
    write_atomic(out, text.encode(errors="backslashreplace"))


def _row(name: str, one: Report, found: PhotoReport) -> tuple[str, ...]:
    whole = [part for part in found.maps if not part.reason]
    passed = sum(card.verdict == "passes" for card in one.cards)
    sets = str(len(found.sag.summary.sizes)) if isinstance(found.sag, SagExplanation) else "-"
    return (
        name,
        one.label,
        f"{one.probability:.3f}",
        f"{len(whole)} of {len(found.maps)}",
        "-" if found.control is None else str(passed),
        sets,
        f"{found.seconds:.1f}",
    )


def _remarks(path: Path, found: PhotoReport) -> Iterator[str]:
    """What went wrong on a photo that has its report all the same."""
    for one in found.maps:
        if one.reason:
            yield f"{path}: {one.method}: {one.reason}"
    if isinstance(found.sag, str):
        yield f"{path}: attention graph: {found.sag}"
