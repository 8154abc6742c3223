"""The commands of attention graphs: `jaxplain sag`, `jaxplain sag-stats`."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import typer

from jaxplain import render, zoo
from jaxplain.cli import screen
from jaxplain.cli.endings import LEFT, clear_errors, display_names, finish, table
from jaxplain.cli.loading import load_classifier
from jaxplain.cli.options import (
    CLOSER,
    MANY,
    Baseline,
    BatchSize,
    Images,
    Model,
    Out,
    Seed,
    Target,
    Weights,
    examples,
)
from jaxplain.cli.run import Tally, distinct, for_each, interruptible
from jaxplain.files import check_writable, staged_folder
from jaxplain.jobs.photos import Photo, check_folder, photos_in
from jaxplain.jobs.records import to_json
from jaxplain.jobs.sag import SagExplanation, SagJob, SagProgram, check_fits, compile_sag, explain_sag
from jaxplain.jobs.sag_files import RECORD, read_summaries, save_sag
from jaxplain.jobs.shelf import Shelf
from jaxplain.sag import Statistics, Status, Summary, statistics
from jaxplain.sag.summary import LEVELS, OVERLAPS

RESULTS, STATISTICS = Path("jaxplain-sag"), Path("jaxplain-sag-stats")
STATISTICS_RECORD = "statistics.json"
_MODEL = "efficientnet-lite0"
_SHIPPED = ", ".join(name for name, entry in zoo.MODELS.items() if entry.package)
_SIZES = (5, 10, 20)  # of the table's shares
_OPEN_ENDED = (Status.BUFFER_FULL, Status.BUDGET_SPENT)  # there may be more explanations

Grid = Annotated[
    int, typer.Option(metavar="N", help="The photo is cut into N x N patches, N from 1 to the model's input.")
]
BeamWidth = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Sets of patches that the search goes on from at each size, at least 1; more find more.",
    ),
]
Candidates = Annotated[
    int,
    typer.Option(metavar="N", help="Patches that each set is extended by, the likeliest; 0: all.", min=0),
]
Threshold = Annotated[
    float,
    typer.Option(
        metavar="SHARE", help="Share of the photo's probability that suffices, above 0 and at most 1."
    ),
]
MaxSize = Annotated[int, typer.Option(metavar="N", help="Largest set tried, in patches, at least 1.")]
MaxRoots = Annotated[
    int, typer.Option(metavar="N", help="Stop when so many explanations are found, at least 1.")
]
MaxOverlap = Annotated[
    int,
    typer.Option(
        metavar="N", help="Patches that two of the explanations called diverse may share, at least 0."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(
        rich_help_panel=CLOSER,
        epilog=examples(
            "jaxplain sag cat.png",
            "jaxplain sag photos/*.jpg --baseline black --grid 8 --threshold 0.8 --out graphs",
        ),
    )(sag)
    app.command(
        name="sag-stats",
        rich_help_panel=MANY,
        epilog=examples(
            "jaxplain sag-stats photos/ --model efficientnet-lite0 --model efficientnet-lite2",
            "jaxplain sag-stats graphs-of-one/ graphs-of-another/",
        )
        + "\n\nThe folders of the second are results of jaxplain sag --out.",
    )(sag_stats)


def sag(
    images: Images,
    model: Model = "efficientnet-lite0",
    weights: Weights = None,
    target: Target = None,
    grid: Grid = 7,
    beam_width: BeamWidth = 5,
    candidates: Candidates = 15,
    threshold: Threshold = 0.9,
    max_size: MaxSize = 20,
    max_roots: MaxRoots = 30,
    baseline: Baseline = "blur",
    max_overlap: MaxOverlap = 1,
    shown: Annotated[
        int, typer.Option(metavar="N", help="Explanations that the graph shows, at most; at least 1.")
    ] = 3,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    out_dir: Out = RESULTS,
) -> None:
    """All the ways a photo convinces the classifier: its minimal sufficient explanations, as a graph.

    Each photo gets an interactive page (sag.html), the graph as SVG, PNG and DOT, its logic form, and a
    record with all explanations found. A photo that fails does not stop the others; the exit status is then
    1.
    """
    with clear_errors():
        job = SagJob(
            grid=(grid, grid),
            beam_width=beam_width,
            candidates=candidates or None,
            threshold=threshold,
            max_size=max_size,
            max_roots=max_roots,
            max_overlap=max_overlap,
            shown=shown,
            baseline=baseline,
            seed=seed,
            batch_size=batch_size,
        )
        classifier = load_classifier(model, weights)
        if target is not None:
            job = replace(job, target=zoo.find_class(target, classifier.labels))
        check_fits(job, classifier)
        check_writable(out_dir)
        paths = distinct(images)
        names, shelf = display_names(paths), Shelf(out_dir, paths, RECORD)
        remarks: list[str] = []

        def rows(program: SagProgram, photo: Photo) -> Iterator[tuple[str, ...]]:
            found = interruptible(partial(explain_sag, program, photo.rgb))
            save_sag(shelf.folder(photo), program, photo, found)
            if found.status not in (Status.OK, Status.BUFFER_FULL):
                remarks.append(f"{photo.path}: {found.status.message}")
            yield _row(names[photo.path], found)

        tally = for_each(paths, partial(compile_sag, job, classifier), rows)
    result = table(
        "image", "class", ">p", ">explanations", ">diverse", ">patches", ">sets scored", ">seconds"
    )
    if tally.program is not None:
        result.caption = screen.printable(
            f"Explanations: minimal sets of patches that keep {threshold:.0%} of the score; +: maybe more. "
            f"Compiled in {tally.program.compile_seconds:.1f} s for {jax.default_backend()}. "
            f"Open sag.html in the folders of {out_dir}"
        )
    finish(tally, result, remarks, kept=f"Their results are in {out_dir}. {LEFT}")


def _row(name: str, found: SagExplanation) -> tuple[str, ...]:
    sizes = found.summary.sizes
    more = "+" if found.status in _OPEN_ENDED else ""
    span = f"{sizes[0]} to {sizes[-1]}" if sizes else "-"
    return (
        name,
        found.label,
        f"{found.probability:.3f}",
        f"{len(sizes)}{more}",
        str(int(found.diverse.chosen.sum())),
        span,
        str(int(found.roots.evaluations)),
        f"{sum(found.seconds.values()):.1f}",
    )


# ---------------------------------------------------------------------------------------------------------
# Statistics


def sag_stats(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR", help="Folders of photos, or of results of jaxplain sag.", show_default=False
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Classifiers for photos; give the option again to compare several. Of {_SHIPPED}.",
            show_default=_MODEL,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Only the first photos of each folder; left out: all.", min=1),
    ] = None,
    grid: Grid = 7,
    beam_width: BeamWidth = 5,
    candidates: Candidates = 15,
    threshold: Threshold = 0.9,
    max_size: MaxSize = 20,
    max_roots: MaxRoots = 30,
    baseline: Baseline = "blur",
    max_overlap: MaxOverlap = 1,
    batch_size: BatchSize = None,
    out_dir: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the table and the curve.")
    ] = STATISTICS,
) -> None:
    """Compare classifiers by their explanations: how many patches they need, in how many ways.

    Prints a table and draws the share of photos that are explained with at most k patches. A classifier with
    many sub-explanations is compositional, one with many explanations and few of those disjunctive.
    """
    with clear_errors():
        job = SagJob(
            grid=(grid, grid),
            beam_width=beam_width,
            candidates=candidates or None,
            threshold=threshold,
            max_size=max_size,
            max_roots=max_roots,
            max_overlap=max_overlap,
            baseline=baseline,
            batch_size=batch_size,
        )
        sources = {folder: _read_folder(folder, limit) for folder in folders}
        check_writable(out_dir)
        tally = Tally(0)
        columns: dict[str, list[Summary]] = {}
        for folder, (results, paths) in sources.items():
            if results:
                columns[str(folder)] = results
            else:
                for name in model or [_MODEL]:
                    columns[f"{name} {folder}"] = _explain_folder(paths, load_classifier(name), job, tally)
        found = {name: statistics(summaries) for name, summaries in columns.items() if summaries}
        if found:
            _save_statistics(out_dir, found)
    tally.rows = list(_statistics_rows(found))
    result = table("", *(f">{screen.printable(name).plain}" for name in found))
    result.caption = screen.printable(f"Means over photos. The curve and all figures are in {out_dir}")
    finish(tally, result, kept="The table and the curve are of these; the same command starts anew.")


def _read_folder(folder: Path, limit: int | None) -> tuple[list[Summary], list[Path]]:
    """The results in a folder or, where there are none, its photos."""
    check_folder(folder)
    results = read_summaries(folder)[:limit]
    paths = photos_in(folder)[:limit]
    if not results and not paths:
        raise FileNotFoundError(
            f"{folder} holds neither photos nor results of jaxplain sag: name a folder of either."
        )
    return results, paths


def _explain_folder(
    paths: list[Path], classifier: zoo.Classifier, job: SagJob, tally: Tally
) -> list[Summary]:
    check_fits(job, classifier)
    summaries: list[Summary] = []

    def rows(program: SagProgram, photo: Photo) -> Iterator[tuple[str, ...]]:
        summaries.append(interruptible(partial(explain_sag, program, photo.rgb)).summary)
        return iter(())

    part = for_each(paths, partial(compile_sag, job, classifier), rows)
    tally.total += part.total
    tally.done += part.done
    tally.failures += part.failures
    tally.interrupted |= part.interrupted
    return summaries


def _statistics_rows(found: dict[str, Statistics]) -> Iterator[tuple[str, ...]]:
    columns = list(found.values())

    def row(title: str, *values: float) -> tuple[str, ...]:
        return title, *(f"{value:.2f}" for value in values)

    if not columns:
        return
    yield "photos", *(str(one.images) for one in columns)
    for size in _SIZES:
        if all(size < len(one.explained) for one in columns):
            title = f"explained with at most {size} patches"
            yield row(title, *(float(one.explained[size]) for one in columns))
    yield row("explained at all", *(float(one.explained[-1]) for one in columns))
    yield row("explanations a photo", *(one.mses for one in columns))
    yield row("patches of an explanation", *(one.mean_size for one in columns))
    for at, overlap in enumerate(OVERLAPS):
        yield row(f"diverse, at most {overlap} shared", *(one.diverse[at] for one in columns))
    for at, level in enumerate(LEVELS):
        yield row(f"sub-explanations above {level:.0%}", *(one.sub_explanations[at] for one in columns))
    yield "photos with counts cut short", *(str(one.incomplete) for one in columns)


def _save_statistics(out_dir: Path, found: dict[str, Statistics]) -> None:
    curves = {name: one.explained for name, one in found.items()}
    contents = {
        "explained.png": render.to_png(render.draw_shares(curves)),
        STATISTICS_RECORD: to_json({name: one.to_dict() for name, one in found.items()}),
    }
    with staged_folder(out_dir, marker=STATISTICS_RECORD) as staging:
        for name, content in contents.items():
            (staging / name).write_bytes(content)
