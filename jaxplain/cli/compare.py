"""`jaxplain compare`: methods x measures x sizes on a folder of photos."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from jaxplain import compare as comparison
from jaxplain import zoo
from jaxplain.cli import screen
from jaxplain.cli.endings import FAILED, clear_errors, end_interrupted, table
from jaxplain.cli.loading import load_classifier
from jaxplain.cli.options import MANY, Baseline, Seed, Weights, examples, split_names
from jaxplain.cli.run import interruptible
from jaxplain.compare.files import open_rows, write
from jaxplain.compare.run import check_sizes, planned, rows_of
from jaxplain.compare.summary import groups
from jaxplain.compare.tables import heading, written
from jaxplain.images import ImageError
from jaxplain.jobs.photos import check_folder, no_photos, photos_in, read_photo
from jaxplain.zoo import Classifier

_NAMES = "A,B,..."


def register(root: typer.Typer) -> None:
    """Add the command to the command line."""
    root.command(
        rich_help_panel=MANY,
        epilog=examples(
            "jaxplain compare photos/ --methods gradient,grad_cam --limit 3",
            "jaxplain compare photos/ --methods grad_cam,rise,igos++ --size 7,28,224 --out table.md",
            "jaxplain compare photos/ --measures deletion,insertion,parameter_randomization",
        ),
    )(compare)


def compare(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of photos, without its sub-folders.", show_default=False),
    ],
    methods: Annotated[
        str,
        typer.Option(
            metavar=_NAMES,
            help=f"all, ablations, or some of {', '.join(comparison.METHODS)}. Quote a name with spaces.",
            show_default=", ".join(comparison.DEFAULT_METHODS),
        ),
    ] = ",".join(comparison.DEFAULT_METHODS),
    models: Annotated[
        str, typer.Option(metavar=_NAMES, help=f"Classifiers, some of {', '.join(zoo.model_names())}.")
    ] = "efficientnet-lite0",
    weights: Weights = None,
    size: Annotated[
        str,
        typer.Option(
            metavar="N,M,...",
            help="Rows and columns of the maps that are measured, each from 1 to the model's input (224).",
        ),
    ] = "28",
    measures: Annotated[
        str,
        typer.Option(
            metavar=_NAMES,
            help=f"Columns, some of {', '.join(comparison.MEASURES)}.",
            show_default=", ".join(comparison.DEFAULT_MEASURES),
        ),
    ] = ",".join(comparison.DEFAULT_MEASURES),
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Only the first photos of the folder; left out: all.", min=1),
    ] = None,
    baseline: Baseline = "blur",
    seed: Seed = 0,
    steps: Annotated[
        int,
        typer.Option(metavar="N", help="Points of the deletion and insertion curves, less one.", min=1),
    ] = 50,
    sheet: Annotated[
        int, typer.Option(metavar="N", help="Photos on the contact sheets; 0: no sheets.", min=0)
    ] = 8,
    out: Annotated[
        Path,
        typer.Option(
            metavar="NAME", help="What the files are called: NAME.md, NAME.csv, NAME-sheet-28.png, ..."
        ),
    ] = Path("comparison"),
) -> None:
    """Compare methods on the photos of a folder: one table of measures, contact sheets, curves.

    Each photo's top prediction is explained. A method that fails on a photo is a failed row with its reason,
    and the others go on. Started again, a run that was cut off makes the rows that are missing.
    """
    with clear_errors():
        settings = comparison.Settings(tuple(split_names(measures, "measures")), baseline, seed, steps)
        chosen = comparison.choose_methods(split_names(methods, "methods"))
        sizes = [_whole(text) for text in split_names(size, "size")]
        photos, unreadable = _photos(folder, limit)
        classifiers = _classifiers(split_names(models, "models"), weights)
        check_sizes(sizes, classifiers)
        rows, maps = open_rows(out, settings)
        interrupted = False
        run = partial(
            comparison.compare, photos, classifiers, chosen,
            sizes=sizes, settings=settings, rows=rows, maps=maps, keep_maps=sheet,
        )  # fmt: skip
        with screen.Bar(planned(chosen, sizes, classifiers, len(photos))) as bar:
            try:
                found = interruptible(partial(run, tell=partial(_tell, bar)))
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            found = rows_of(photos, classifiers, chosen, sizes=sizes, settings=settings, rows=rows, maps=maps)
        paths = write(out, found, classifiers)
    _finish(found, paths, unreadable, interrupted)


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--size must be whole numbers of at least 1, such as 7,28,224; got {text!r}.")
    return int(text)


def _photos(folder: Path, limit: int | None) -> tuple[list[Path], list[str]]:
    """Photos that can be read, and why the others cannot."""
    check_folder(folder)
    found = photos_in(folder)[:limit]
    if not found:
        raise no_photos(folder)
    readable, unreadable = [], []
    with screen.waiting(f"reading {len(found)} photos"):
        for path in found:
            try:
                read_photo(path)
            except ImageError as error:
                unreadable.append(str(error))
            else:
                readable.append(path)
    if not readable:
        raise ValueError(f"none of {len(found)} photos can be read: {unreadable[0]}")
    return readable, unreadable


def _classifiers(names: list[str], weights: Path | None) -> list[Classifier]:
    if weights is not None and len(names) > 1:
        raise ValueError("--weights is the file of one model; name one with --models.")
    return [load_classifier(name, weights) for name in dict.fromkeys(names)]


def _tell(bar: screen.Bar, doing: str, steps: int) -> None:
    if steps:
        bar.advance(steps)
    else:
        bar.tell(doing)


def _finish(
    found: comparison.Comparison, paths: list[Path], unreadable: list[str], interrupted: bool
) -> None:
    measures = found.settings.measures
    for model, size, several in groups(comparison.summarize(found.rows, measures)):
        shown = table("method", *(f">{heading(name)}" for name in measures), ">seconds", ">failed")
        shown.title = screen.printable(f"{model}, {size} x {size}")
        for one in several:
            cells = [written(name, one.measures[name].mean) for name in measures]
            shown.add_row(screen.printable(one.method), *cells, f"{one.seconds:.2f}", str(one.failed))
        screen.show(shown)
    _say_failures(found, unreadable)
    screen.say(f"{len(found.photos)} photos; written: {', '.join(map(str, paths))}")
    if interrupted:
        end_interrupted("every finished row is kept; the same command goes on with those that are missing.")
    if unreadable or any(row.status == comparison.FAILED for row in found.rows):
        raise typer.Exit(FAILED)


def _say_failures(found: comparison.Comparison, unreadable: list[str]) -> None:
    for text in unreadable:
        screen.say(text, "failed", "red")
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in found.rows:
        if row.status == comparison.FAILED:
            reasons.setdefault((row.method, row.reason), []).append(row.photo)
    for (method, reason), photos in reasons.items():
        names = ", ".join(dict.fromkeys(photos))
        screen.say(f"{method}: {reason} ({len(photos)} rows: {screen.shortened(names, 60)})", "failed", "red")
