"""`jaxplain compare`: evaluate several methods, at several sizes, on a folder of photos."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxplain import overlay, zoo
from jaxplain.cli import options, run, screen
from jaxplain.files import check_writable, write_atomic
from jaxplain.images import ImageError
from jaxplain.methods import choose
from jaxplain.runs import compare as comparisons
from jaxplain.runs.compare import CompareSettings, Comparison
from jaxplain.runs.measures import DEFAULT_MEASURES, MEASURES
from jaxplain.runs.photos import check_folder, no_photos, photos_in
from jaxplain.runs.sinks import FAILED as FAILED_ROW
from jaxplain.runs.sinks import OK, MapFolder, Row, RowFile
from jaxplain.runs.summary import (
    comparison_json,
    format_mean,
    groups,
    heading,
    markdown,
    mean_curves,
    photos_csv,
    summarize_rows,
    summary_csv,
)

_NAMES = "A,B,..."
_SUFFIXES = (".md", ".csv", ".json")
_EMPTY_CELL = 235  # gray level of a missing image

app = typer.Typer()


@app.command(
    rich_help_panel=options.MANY,
    epilog=options.examples(
        "jaxplain compare photos/ --methods gradient,grad-cam --limit 3",
        "jaxplain compare photos/ --methods grad-cam,rise,igos++ --size 7,28,224 --out table.md",
        "jaxplain compare photos/ --measures deletion,insertion,parameter_randomization",
    ),
)
def compare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    methods: Annotated[
        str,
        typer.Option(
            metavar=_NAMES,
            help=f"Methods to compare: all, ablations, or any of {options.METHOD_NAMES}.",
            show_default=", ".join(comparisons.DEFAULT_METHODS),
        ),
    ] = ",".join(comparisons.DEFAULT_METHODS),
    models: Annotated[
        str, typer.Option(metavar=_NAMES, help=f"Classifiers to use: any of {', '.join(zoo.model_names())}.")
    ] = "efficientnet-lite0",
    weights: options.Weights = None,
    labels: options.Labels = None,
    size: Annotated[str, typer.Option(metavar="N,M,...")] = "28",
    measures: Annotated[
        str,
        typer.Option(
            metavar=_NAMES,
            help=f"Metrics to compute: any of {', '.join(MEASURES)}.",
            show_default=", ".join(DEFAULT_MEASURES),
        ),
    ] = ",".join(DEFAULT_MEASURES),
    limit: options.Limit = None,
    baseline: options.Baseline = "blur",
    seed: options.Seed = 0,
    steps: Annotated[int, typer.Option(metavar="N", min=1)] = 50,
    sheet: Annotated[int, typer.Option(metavar="N", min=0)] = 8,
    white_level: options.WhiteLevel = None,
    out: Annotated[Path, typer.Option(metavar="NAME")] = Path("comparison"),
) -> None:
    """Compare methods on the photos in a folder: a table of metrics, contact sheets and mean curves.

    Each photo's top prediction is explained. If a method fails on a photo, its row gives the reason,
    and the other methods are not affected. Run the same command again to resume an interrupted run.

    Args:
      folder: Folder of photos; sub-folders are ignored.
      size: Sizes (rows and columns) at which maps are evaluated, each from 1 to the model's input size (224).
      steps: Number of steps in the deletion and insertion curves (at least 1).
      sheet: Number of photos on the contact sheets; 0 for no sheets.
      out: Prefix of the output files: NAME.md, NAME.csv, NAME-sheet-28.png, ...
    """
    with run.clear_errors():
        settings = CompareSettings(
            tuple(options.split_names(measures, "measures")), baseline, seed, steps, white_level
        )
        chosen = choose(options.split_names(methods, "methods"))
        sizes = [_whole(text) for text in options.split_names(size, "size")]
        check_folder(folder)
        left_out = Counter[str]()
        photos = photos_in(folder, left_out)[:limit]
        if not photos:
            raise no_photos(folder, left_out)
        run.show_left_out(left_out)
        classifiers = _classifiers(options.split_names(models, "models"), weights, labels)
        comparisons.check_sizes(sizes, classifiers)
        rows, maps = _open(out, settings)
        scope: dict[str, Any] = {"sizes": sizes, "settings": settings, "rows": rows, "maps": maps}
        interrupted = False
        with screen.ProgressBar(comparisons.planned_rows(chosen, sizes, classifiers, len(photos))) as bar:
            work = partial(
                comparisons.compare, photos, classifiers, chosen,
                **scope, keep_maps=sheet, on_progress=partial(_show_progress, bar),
            )  # fmt: skip
            try:
                comparison = run.interruptible(work)
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            comparison = comparisons.finished_part(photos, classifiers, chosen, **scope)
        paths = _write(out, comparison, classifiers)
    _finish(comparison, paths, interrupted)


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--size must be positive integers, such as 7,28,224; got {text!r}.")
    return int(text)


def _classifiers(names: list[str], weights: Path | None, labels: Path | None) -> list[zoo.ZooClassifier]:
    if weights is not None and len(names) > 1:
        raise ValueError("--weights applies to one model only; choose one with --models.")
    return [run.load_classifier(name, weights, labels) for name in dict.fromkeys(names)]


def _show_progress(bar: screen.ProgressBar, doing: str, rows: int) -> None:
    if rows:
        bar.advance(rows)
    else:
        bar.tell(doing)


# ---------------------------------------------------------------------------------------------------------
# Files


def stem(out: Path) -> Path:
    """Return the common prefix of a comparison's files: `out` without the extension of a table.

    Example:
      >>> stem(Path("results/table.md")).name, stem(Path("table")).name
      ('table', 'table')
    """
    return out.with_suffix("") if out.suffix.lower() in _SUFFIXES else out


def _beside(out: Path, ending: str) -> Path:
    return stem(out).with_name(stem(out).name + ending)


def _open(out: Path, settings: CompareSettings) -> tuple[RowFile, MapFolder]:
    """Open the rows and maps of a comparison, including those of an earlier, interrupted run."""
    check_writable(stem(out).parent)
    return RowFile(_beside(out, "-rows.jsonl"), settings.record()), MapFolder(_beside(out, "-maps"))


def _write(out: Path, comparison: Comparison, classifiers: Sequence[zoo.ZooClassifier]) -> list[Path]:
    """Write tables and images, and return their paths.

    The files are NAME.md, NAME.csv, NAME.json, NAME-photos.csv, and for each size NAME-sheet-SIZE.png and
    NAME-curves-SIZE.png (with the model's name if there are several models).
    """
    contents = {
        ".md": markdown(comparison).encode(),
        ".csv": summary_csv(comparison).encode(),
        ".json": comparison_json(comparison).encode(),
        "-photos.csv": photos_csv(comparison).encode(),
    }
    for classifier in classifiers:
        for size in comparison.sizes:
            name = f"{size}-{classifier.name}" if len(classifiers) > 1 else f"{size}"
            contents |= {
                f"-{kind}-{name}.png": picture
                for kind, picture in pictures(comparison, classifier, size).items()
            }
    paths = [_beside(out, ending) for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomic(path, content)
    return paths


def pictures(comparison: Comparison, classifier: zoo.ZooClassifier, size: int) -> dict[str, bytes]:
    """Draw the contact sheet ("sheet") and the mean curves ("curves") of a classifier at one size."""
    from jaxplain.report import figures  # imports matplotlib, which only this function needs

    rows = [row for row in comparison.rows if row.model == classifier.name and row.size == size]
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = list(_sheet_lines(comparison, classifier, rows, methods))
    drawn = {}
    if lines:
        drawn["sheet"] = figures.figure_bytes(figures.contact_sheet(["photo", *methods], lines), "png")
    if means := mean_curves(rows):
        drawn["curves"] = figures.figure_bytes(figures.mean_curves(means), "png")
    return drawn


def _sheet_lines(
    comparison: Comparison, classifier: zoo.ZooClassifier, rows: list[Row], methods: list[str]
) -> Iterator[list]:
    """Yield the tiles of each photo that has maps: the photo, and its overlay for each method."""
    from jaxplain.report import figures

    photos: dict[str, dict[str, Row]] = {}
    for row in rows:
        photos.setdefault(row.sha256, {})[row.method] = row
    for sha256, by_method in photos.items():
        if all(comparison.maps.get(row.key) is None for row in by_method.values()):
            continue
        try:
            pixels = comparisons.photo_pixels(comparison, classifier, sha256)
        except ImageError:  # the file was removed during the run
            continue
        first = next((row for row in by_method.values() if row.label), next(iter(by_method.values())))
        probability = "" if first.probability is None else f"p {first.probability:.2f} "
        # The label may be truncated, so it comes last.
        tiles = [figures.Tile(pixels, f"{probability}{first.label}")]
        for method in methods:
            picture, caption = _tile(comparison, pixels, by_method.get(method))
            tiles.append(figures.Tile(picture, caption))
        yield tiles


def _tile(comparison: Comparison, pixels: np.ndarray, row: Row | None) -> tuple[np.ndarray, str]:
    """Return a method's overlay and its deletion and insertion scores, or a gray image if it has no map."""
    importance = None if row is None else comparison.maps.get(row.key)
    if row is None or importance is None or row.status != OK:
        return np.full_like(pixels, _EMPTY_CELL), "n/a" if row is None or row.status == OK else "failed"
    importance = importance.astype(np.float32)
    picture = overlay.overlay(pixels, importance, 0.6, limits=overlay.robust_range(importance))
    values = {name: row.values.get(name) for name in ("deletion", "insertion")}
    return picture, " / ".join(
        format_mean(name, value) for name, value in values.items() if value is not None
    )


# ---------------------------------------------------------------------------------------------------------
# Output


def _finish(comparison: Comparison, paths: list[Path], interrupted: bool) -> None:
    measures = comparison.settings.measures
    for model, size, summaries in groups(summarize_rows(comparison.rows, measures)):
        shown = run.table("method", *(f">{heading(name)}" for name in measures), ">seconds", ">failed")
        shown.title = screen.printable(f"{model}, {size} x {size}")
        for summary in summaries:
            cells = [format_mean(name, summary.measures[name].mean) for name in measures]
            seconds = f"{summary.seconds:.2f}" if np.isfinite(summary.seconds) else "n/a"
            shown.add_row(screen.printable(summary.method), *cells, seconds, str(summary.failed))
        screen.show(shown)
    _show_failures(comparison)
    screen.say(f"{run.count_of(len(comparison.photos), 'photo')}; wrote {', '.join(map(str, paths))}")
    if interrupted:
        run.end_interrupted("finished rows are kept; run the same command again to resume.")
    if comparison.unreadable or any(row.status == FAILED_ROW for row in comparison.rows):
        raise typer.Exit(run.FAILED)


def _show_failures(comparison: Comparison) -> None:
    for text in comparison.unreadable:
        screen.say(text, "failed", "red")
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in comparison.rows:
        if row.status == FAILED_ROW:
            reasons.setdefault((row.method, row.reason), []).append(row.photo)
    for (method, reason), photos in reasons.items():
        names = screen.shortened(", ".join(dict.fromkeys(photos)), 60)
        screen.say(f"{method}: {reason} ({run.count_of(len(photos), 'row')}: {names})", "failed", "red")
