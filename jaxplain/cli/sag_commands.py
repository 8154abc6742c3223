"""Commands for attention graphs: `jaxplain sag` and `jaxplain sag-stats`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import typer

from jaxplain import overlay, zoo
from jaxplain.cli import options, run, screen
from jaxplain.explanation import Status
from jaxplain.files import check_writable
from jaxplain.runs.graph_runs import (
    MAX_CHILDREN,
    RECORD,
    GraphedPhoto,
    GraphProgram,
    GraphSettings,
    check_grid,
    compile_graphs,
    graph_facts,
    graph_files,
    graph_photo,
    read_summaries,
)
from jaxplain.runs.photos import Photo, check_folder, distinct, photos_in
from jaxplain.runs.records import to_json
from jaxplain.runs.sinks import PhotoFolders, write_folder
from jaxplain.sag import Statistics, Summary, statistics
from jaxplain.sag.analysis import LEVELS, OVERLAPS

RESULTS, STATISTICS = Path("jaxplain-sag"), Path("jaxplain-sag-stats")
STATISTICS_RECORD = "statistics.json"
_MODEL = "efficientnet-lite0"
_SHIPPED = ", ".join(name for name, entry in zoo.MODELS.items() if entry.package)
_SIZES = (5, 10, 20)  # numbers of patches in the table's first rows
_OPEN_ENDED = (Status.BUFFER_FULL, Status.BUDGET_SPENT)  # there may be more explanations

Grid = Annotated[
    int,
    typer.Option(
        metavar="N", help="Divide the photo into N x N patches, N from 1 to the model's input size."
    ),
]
BeamWidth = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Number of patch sets kept per set size (at least 1); a wider beam finds more explanations.",
    ),
]
Candidates = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Number of patches, most promising first, tried in extending each set; 0 for all.",
        min=0,
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Fraction of the whole photo's class probability that a set of patches must retain, above 0 and "
        "at most 1.",
    ),
]
MaxSize = Annotated[int, typer.Option(metavar="N", help="Maximum number of patches in a set (at least 1).")]
MaxExplanations = Annotated[
    int, typer.Option(metavar="N", help="Stop after finding N explanations (at least 1).")
]
MaxOverlap = Annotated[
    int,
    typer.Option(
        metavar="N", help="Maximum number of patches that two diverse explanations may share (at least 0)."
    ),
]

app = typer.Typer()


@app.command(
    rich_help_panel=options.CLOSER,
    epilog=options.examples(
        "jaxplain sag cat.png",
        "jaxplain sag photos/*.jpg --baseline black --grid 8 --threshold 0.8 --out graphs",
    ),
)
def sag(
    images: options.Images,
    model: options.Model = _MODEL,
    weights: options.Weights = None,
    labels: options.Labels = None,
    target: options.Target = None,
    grid: Grid = 7,
    beam_width: BeamWidth = 5,
    candidates: Candidates = 15,
    threshold: Threshold = 0.9,
    max_size: MaxSize = 20,
    max_explanations: MaxExplanations = 30,
    baseline: options.Baseline = "blur",
    max_overlap: MaxOverlap = 1,
    shown: Annotated[int, typer.Option(metavar="N")] = 3,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    white_level: options.WhiteLevel = None,
    out_dir: options.Out = RESULTS,
) -> None:
    """Find minimal sets of patches that suffice for the prediction, and draw them as an attention graph.

    For each photo, this writes an interactive page (sag.html), the graph as SVG, PNG and DOT and as a logical
    formula, a plot of the highest fraction of the score reached with each number of patches (history.svg),
    and a record of all explanations found. A photo that fails does not stop the others, but the exit status
    is then 1.

    Args:
      shown: Maximum number of explanations in the graph (at least 1).
    """
    with run.clear_errors():
        settings = GraphSettings(
            grid=(grid, grid),
            beam_width=beam_width,
            candidates=candidates or None,
            threshold=threshold,
            max_size=max_size,
            max_explanations=max_explanations,
            max_overlap=max_overlap,
            shown=shown,
            baseline=baseline,
            seed=seed,
            batch_size=batch_size,
        )
        classifier = run.load_classifier(model, weights, labels)
        if target is not None:
            settings = replace(settings, target=zoo.find_class(target, classifier.labels))
        check_grid(settings, classifier)
        check_writable(out_dir)
        paths = distinct(images)
        names, folders = run.display_names(paths), PhotoFolders(out_dir, paths, RECORD)
        remarks: list[str] = []

        def rows(program: GraphProgram, photo: Photo) -> Iterator[tuple[str, ...]]:
            graphed = run.interruptible(partial(graph_photo, program, photo.rgb))
            contents = pictures(program, photo, graphed) | graph_files(program, photo, graphed)
            write_folder(folders.folder(photo), contents, RECORD)
            if graphed.status not in (Status.OK, Status.BUFFER_FULL):
                remarks.append(f"{photo.path}: {graphed.status.message}")
            yield _row(names[photo.path], graphed)

        prepare = partial(compile_graphs, settings, classifier)
        tally = run.for_each(paths, prepare, rows, white_level=white_level)
    result = run.table(
        "image", "class", ">p", ">explanations", ">diverse", ">patches", ">sets scored", ">seconds"
    )
    if tally.program is not None:
        result.caption = screen.printable(
            f"Explanations: minimal sets of patches that keep {threshold:.0%} of the score; + means there "
            f"may be more. Compiled in {tally.program.compile_seconds:.1f} s for {jax.default_backend()}. "
            f"Open sag.html in the folders of {out_dir}"
        )
    run.finish(tally, result, remarks, kept=f"Their results are in {out_dir}. {run.LEFT}")


def pictures(program: GraphProgram, photo: Photo, graphed: GraphedPhoto) -> dict[str, bytes]:
    """Draw sag.html (a self-contained page), sag.svg, sag.png, history.svg (the search) and photo.png."""
    from jaxplain.report import (
        figures,
        graphs,
    )  # imports matplotlib and jinja2, which only this function needs

    drawn, scene = graphed.graph.pruned(MAX_CHILDREN), (graphed.view.pixels, graphed.hidden)
    caption = f"{graphed.label}, p = {graphed.view.probability:.2f}"
    page = graphs.graph_page(
        drawn,
        *scene,
        known=graphed.graph,
        label=graphed.label,
        probability=graphed.view.probability,
        title=f"{photo.path.name}: attention graph",
        facts=graph_facts(program, photo, graphed).items(),
    )
    history = graphed.result.history
    search = figures.search_history(history.size, history.best_score, threshold=program.settings.threshold)
    return {
        "photo.png": overlay.to_png(graphed.view.pixels),
        "history.svg": figures.figure_bytes(search, "svg"),
        "sag.svg": graphs.graph_svg(drawn, *scene, label=caption).encode(),
        "sag.png": graphs.graph_png(drawn, *scene, label=caption),
        "sag.html": page.encode(errors="backslashreplace"),  # a file name may contain undecodable bytes
    }


def _row(name: str, graphed: GraphedPhoto) -> tuple[str, ...]:
    sizes = graphed.summary.sizes
    more = "+" if graphed.status in _OPEN_ENDED else ""
    span = f"{sizes[0]} to {sizes[-1]}" if sizes else "-"
    return (
        name,
        graphed.label,
        f"{graphed.view.probability:.3f}",
        f"{len(sizes)}{more}",
        str(int(graphed.diverse.chosen.sum())),
        span,
        str(int(graphed.result.evaluations)),
        f"{sum(graphed.seconds.values()):.1f}",
    )


# ---------------------------------------------------------------------------------------------------------
# Statistics


@app.command(
    name="sag-stats",
    rich_help_panel=options.MANY,
    epilog=options.examples(
        "jaxplain sag-stats photos/ --model efficientnet-lite0 --model efficientnet-lite2",
        "jaxplain sag-stats graphs-of-one/ graphs-of-another/",
    )
    + "\n\nThe second example compares output folders of jaxplain sag.",
)
def sag_stats(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", show_default=False)],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Classifier to use for photos: one of {_SHIPPED}; repeat the option to compare several.",
            show_default=_MODEL,
        ),
    ] = None,
    limit: options.Limit = None,
    grid: Grid = 7,
    beam_width: BeamWidth = 5,
    candidates: Candidates = 15,
    threshold: Threshold = 0.9,
    max_size: MaxSize = 20,
    max_explanations: MaxExplanations = 30,
    baseline: options.Baseline = "blur",
    max_overlap: MaxOverlap = 1,
    batch_size: options.BatchSize = None,
    white_level: options.WhiteLevel = None,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR")] = STATISTICS,
) -> None:
    """Compare classifiers by their explanations: how many patches suffice, and how many such sets exist.

    Prints a table and plots the share of photos explained with at most k patches. A classifier with many
    sub-explanations is compositional; one with many explanations but few sub-explanations is disjunctive.

    Args:
      folders: Folders of photos, or output folders of jaxplain sag.
      out_dir: Folder for the table and the plot.
    """
    with run.clear_errors():
        settings = GraphSettings(
            grid=(grid, grid),
            beam_width=beam_width,
            candidates=candidates or None,
            threshold=threshold,
            max_size=max_size,
            max_explanations=max_explanations,
            max_overlap=max_overlap,
            baseline=baseline,
            batch_size=batch_size,
        )
        sources = {folder: _read_folder(folder, limit) for folder in folders}
        check_writable(out_dir)
        tally = run.Tally(0)
        columns: dict[str, list[Summary]] = {}
        for folder, (results, paths) in sources.items():
            if results:
                columns[str(folder)] = results
            else:
                for name in model or [_MODEL]:
                    classifier = run.load_classifier(name)
                    columns[f"{name} {folder}"] = _explain_folder(
                        paths, classifier, settings, tally, white_level
                    )
        by_name = {name: statistics(summaries) for name, summaries in columns.items() if summaries}
        if by_name:
            _save_statistics(out_dir, by_name)
    tally.rows = list(_statistics_rows(by_name))
    result = run.table("", *(f">{screen.printable(name).plain}" for name in by_name))
    result.caption = screen.printable(f"Means over photos. The plot and all numbers are in {out_dir}")
    run.finish(
        tally, result, kept="The table and the plot include these. To start over, run the same command again."
    )


def _read_folder(folder: Path, limit: int | None) -> tuple[list[Summary], list[Path]]:
    """Return the earlier results and the photos in a folder."""
    check_folder(folder)
    results, left_out = read_summaries(folder)[:limit], Counter[str]()
    paths = photos_in(folder, left_out)[:limit]
    if not results:
        run.show_left_out(left_out)
    if not results and not paths:
        raise FileNotFoundError(
            f"{folder} contains neither photos nor results of jaxplain sag: choose a folder of photos or "
            "of results."
        )
    return results, paths


def _explain_folder(
    paths: list[Path],
    classifier: zoo.ZooClassifier,
    settings: GraphSettings,
    tally: run.Tally,
    white_level: float | None,
) -> list[Summary]:
    check_grid(settings, classifier)
    summaries: list[Summary] = []

    def rows(program: GraphProgram, photo: Photo) -> Iterator[tuple[str, ...]]:
        summaries.append(run.interruptible(partial(graph_photo, program, photo.rgb)).summary)
        return iter(())

    prepare = partial(compile_graphs, settings, classifier)
    part = run.for_each(paths, prepare, rows, white_level=white_level)
    tally.total += part.total
    tally.done += part.done
    tally.failures += part.failures
    tally.interrupted |= part.interrupted
    return summaries


def _statistics_rows(by_name: dict[str, Statistics]) -> Iterator[tuple[str, ...]]:
    columns = list(by_name.values())

    def row(title: str, *values: float) -> tuple[str, ...]:
        return title, *(f"{value:.2f}" for value in values)

    if not columns:
        return
    yield "photos", *(str(column.images) for column in columns)
    for size in _SIZES:
        if all(size < len(column.explained) for column in columns):
            title = f"explained with at most {size} patches"
            yield row(title, *(float(column.explained[size]) for column in columns))
    yield row("explained at all", *(float(column.explained[-1]) for column in columns))
    yield row("explanations per photo", *(column.explanations for column in columns))
    yield row("patches per explanation", *(column.mean_size for column in columns))
    for index, overlap in enumerate(OVERLAPS):
        yield row(f"diverse, at most {overlap} shared", *(column.diverse[index] for column in columns))
    for index, level in enumerate(LEVELS):
        title = f"sub-explanations above {level:.0%}"
        yield row(title, *(column.sub_explanations[index] for column in columns))
    yield "photos with incomplete counts", *(str(column.incomplete) for column in columns)


def _save_statistics(out_dir: Path, by_name: dict[str, Statistics]) -> None:
    from jaxplain.report import figures  # imports matplotlib, which only this function needs

    shares = {name: column.explained for name, column in by_name.items()}
    contents = {
        "explained.png": figures.figure_bytes(figures.share_curves(shares), "png"),
        "explained.svg": figures.figure_bytes(figures.share_curves(shares), "svg"),
        STATISTICS_RECORD: to_json({name: column.to_dict() for name, column in by_name.items()}),
    }
    write_folder(out_dir, contents, STATISTICS_RECORD)
