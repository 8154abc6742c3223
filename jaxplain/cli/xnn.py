"""The commands of explanation networks: `jaxplain xnn fit`, `xnn explain`, `xnn report`."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jaxplain import xnn as networks
from jaxplain.checks import check_choice
from jaxplain.cli import screen
from jaxplain.cli.endings import LEFT, clear_errors, display_names, end_interrupted, finish, table
from jaxplain.cli.loading import load_classifier
from jaxplain.cli.options import CLOSER, Images, Model, Out, Seed, Weights, examples, split_names
from jaxplain.cli.run import Tally, distinct, for_each, interruptible
from jaxplain.files import check_replaceable, check_writable
from jaxplain.jobs.features import (
    Extraction,
    FeatureStore,
    LabelledPhoto,
    class_folders,
    labelled_photos,
    weights_digest,
)
from jaxplain.jobs.photos import Photo
from jaxplain.jobs.shelf import Shelf
from jaxplain.jobs.xnn import ClassFit, Dataset, Fitted, XnnJob, dataset, fit_networks
from jaxplain.jobs.xnn_files import RECORD, Networks, Source, load_networks, save_networks
from jaxplain.jobs.xnn_look import Program, prepare, view
from jaxplain.jobs.xnn_report import PHOTO_RECORD, REPORT_RECORD, heatmaps_of_report, save_photo
from jaxplain.jobs.xnn_report import report as write_report
from jaxplain.jobs.xnn_sheets import photo_sheet

app = typer.Typer(
    help="Explanation networks: what a classifier's logit is made of, and what tells classes apart.",
    epilog=examples(
        "jaxplain xnn fit birds/ --out gulls",
        "jaxplain xnn report gulls",
        "jaxplain xnn explain gulls photo.jpg",
    )
    + "\n\nIn this order: fit first, to photos in one sub-folder a class; the others read what it wrote.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

RESULTS, SHEETS = Path("jaxplain-xnn"), Path("jaxplain-xnn-sheets")
_ALL_PAIRS = 4  # classes, of which every pair gets a sheet unless told otherwise


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    root.add_typer(app, name="xnn", rich_help_panel=CLOSER)


@app.command(
    epilog=examples(
        "jaxplain xnn fit birds/",
        "jaxplain xnn fit birds/ --classes Heermann_Gull,Ivory_Gull --out gulls",
    )
)
def fit(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder with one sub-folder of photos a class, at least two; their names are the classes.",
            show_default=False,
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Classes that get a network; left out: all of them."),
    ] = None,
    model: Model = "efficientnet-lite0",
    weights: Weights = None,
    layer: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What of the classifier is explained, one of penultimate (the features before its last "
            "layer), maps (those of its last convolution).",
        ),
    ] = "penultimate",
    n_features: Annotated[
        int,
        typer.Option(metavar="N", help="Concepts (x-features) that each network may use, from 1 to 99."),
    ] = 5,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Passes over the photos while fitting, at least 1; left out: 120, or more of few photos.",
        ),
    ] = None,
    holdout: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of each class's photos that is not fitted to but measured on, between 0 and 1.",
        ),
    ] = 0.25,
    seed: Seed = 0,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where extracted features are kept, for this run and the next.",
            show_default="the folder of --out with -features behind its name",
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the networks.")] = RESULTS,
) -> None:
    """Fit explanation networks to photos in one sub-folder a class.

    Features are extracted once and kept; a linear probe learns all classes, and for each of `--classes` a
    network learns to say the probe's logit through a few x-features. The table's figures are of photos held
    out. An interrupted extraction goes on where it stopped.
    """
    with clear_errors():
        names = class_folders(folder)
        explained = tuple(names if classes is None else split_names(classes, "classes"))
        options = {"n_features": n_features} | ({} if epochs is None else {"epochs": epochs})
        job = XnnJob(explained, layer, seed, holdout, options)  # type: ignore[arg-type]
        for name in explained:
            check_choice(name, names, f"class of {folder}")
        networks.SRAEConfig(features=10**6, n_features=n_features)  # refused before hours of work
        check_replaceable(out_dir, RECORD)
        check_writable(out_dir.parent)
        kept = features or out_dir.with_name(f"{out_dir.name}-features")
        check_writable(kept)
        classifier = load_classifier(model, weights)
        tally = Tally(0)
        try:
            with screen.waiting(f"looking at the photos of {len(names)} classes"):
                photos = labelled_photos(folder, names)
            found = _extract(FeatureStore(kept, classifier, job.layer), photos)
            tally.failures = found.failures
            data = dataset(found.photos, found.features, names, holdout)
            fitted = _fit(job, data)
            source = Source(folder, model, weights, weights_digest(classifier))
            save_networks(out_dir, job, source, data, fitted)
        except KeyboardInterrupt:
            end_interrupted(f"features extracted so far are in {kept}; the same command goes on from there.")
    tally.total = len(found.photos) + len(found.failures)
    tally.rows = [_row(one) for one in fitted.classes]
    finish(tally, _table(fitted, out_dir), [*found.remarks, *_remarks(fitted)])


def _extract(store: FeatureStore, photos: list[LabelledPhoto]) -> Extraction:
    missing = len(store.missing(photos))
    with screen.Bar(missing) as bar:
        if missing:
            bar.tell(f"features of {missing} photos")
        return store.extract(photos, bar.advance)  # in this thread, which Ctrl-C lets put away what it has


def _fit(job: XnnJob, data: Dataset) -> Fitted:
    with screen.Bar(len(job.explained) + 1) as bar:  # the probe is one
        return interruptible(partial(fit_networks, job, data, bar.tell, bar.advance))


def _row(one: ClassFit) -> tuple[str, ...]:
    numbers = one.diagnosis
    return (
        one.name,
        f"{float(numbers.r2):.3f}",
        f"{float(numbers.rmse):.2f}",
        f"{one.recall.before:.2f} {one.recall.after:.2f}",
        f"{one.precision.before:.2f} {one.precision.after:.2f}",
        f"{float(numbers.agreement):.3f}",
        f"{float(numbers.significant):.1f}",
        f"{float(numbers.pull_away):.2f}",
        f"{float(numbers.dominance):.2f}",
        str(int(numbers.dead)),
    )


def _table(fitted: Fitted, out_dir: Path) -> Table:
    result = table(
        "class", ">R2", ">RMSE", ">recall", ">precision", ">agreement", ">significant", ">pull-away",
        ">dominance", ">dead",
    )  # fmt: skip
    result.caption = screen.printable(
        f"On photos held out, of which the probe names {fitted.accuracy:.1%} right. Recall and precision: "
        f"with the probe's logit, then with the network's. Next: jaxplain xnn report {out_dir}"
    )
    return result


def _remarks(fitted: Fitted) -> list[str]:
    return [
        f"{one.name}: {networks.Status(int(one.found.status)).message}"
        for one in fitted.classes
        if one.found.status != networks.Status.OK
    ]


# ---------------------------------------------------------------------------------------------------------
# Sheets

Folder = Annotated[
    Path, typer.Argument(metavar="XNN", help="What jaxplain xnn fit --out wrote.", show_default=False)
]


@app.command(epilog=examples("jaxplain xnn explain gulls photo.jpg --class Ivory_Gull"))
def explain(
    folder: Folder,
    images: Images,
    name: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="One of the classes that have a network; left out: the likeliest of them.",
        ),
    ] = None,
    out_dir: Out = SHEETS,
) -> None:
    """Explain photos: the significant x-features of a class, where each looks, and what else it is active on.

    Each photo gets sheet.html, sheet.png and a record.
    """
    with clear_errors():
        with screen.waiting(f"loading {folder}"):
            found = load_networks(folder)
        if name is not None:
            _check_class(found, name)
        check_writable(out_dir)
        paths = distinct(images)
        names, shelf = display_names(paths), Shelf(out_dir, paths, PHOTO_RECORD)

        def rows(program: Program, photo: Photo) -> Iterator[tuple[str, ...]]:
            seen = view(program, photo.path.name, photo.rgb)
            sheet = interruptible(partial(photo_sheet, program, seen, name))
            save_photo(shelf.folder(photo), program, photo, sheet)
            logit = sheet.logits[found.names.index(sheet.name)]
            features = ", ".join(f"{k + 1} ({sheet.contributions[k]:+.2f})" for k in sheet.seen)
            yield names[photo.path], sheet.name, f"{logit:.2f}", f"{sheet.predicted:.2f}", features

        tally = for_each(paths, partial(prepare, found), rows)
    result = table("image", "class", ">logit", ">network", "significant x-features")
    result.caption = screen.printable(f"Open sheet.html in the folders of {out_dir}")
    finish(tally, result, kept=f"Their sheets are in {out_dir}. {LEFT}")


@app.command(
    epilog=examples("jaxplain xnn report gulls", "jaxplain xnn report gulls --pairs Ivory_Gull:Heermann_Gull")
)
def report(
    folder: Folder,
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="A:B,...",
            help="Classes to tell apart; left out: all pairs where up to four have networks, else none.",
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for the page and its pictures.",
            show_default="the folder XNN with -report behind its name",
        ),
    ] = None,
) -> None:
    """Draw every network's x-features, and which of them tell two classes apart: one page, and PNGs."""
    with clear_errors():
        with screen.waiting(f"loading {folder}"):
            found = load_networks(folder)
        chosen = _pairs(found, pairs)
        target = out_dir or folder.with_name(f"{folder.resolve().name}-report")
        check_replaceable(target, REPORT_RECORD)
        check_writable(target.parent)
        try:
            with screen.Bar(heatmaps_of_report(found, len(chosen))) as bar:
                bar.tell("compiling")

                def tell(doing: str) -> None:
                    bar.tell(doing)
                    bar.advance()

                spread = interruptible(lambda: write_report(target, prepare(found), chosen, tell))
        except KeyboardInterrupt:
            end_interrupted("nothing was written; the same command starts anew.")
    result = table("class", ">locality of its heatmaps")
    for name, value in spread.items():
        result.add_row(screen.printable(name), f"{value:.3f}")
    result.caption = screen.printable(f"Open {target / 'report.html'}")
    screen.show(result)


def _pairs(found: Networks, pairs: str | None) -> list[tuple[str, str]]:
    if pairs is None:
        few = list(found.explained)
        return list(itertools.combinations(few, 2)) if len(few) <= _ALL_PAIRS else []
    chosen = []
    for text in pairs.split(","):
        one, colon, two = text.strip().partition(":")
        if not colon or one == two:
            raise ValueError(f"--pairs must be two classes each, such as A:B or A:B,A:C; got {text!r}.")
        _check_class(found, one)
        _check_class(found, two)
        chosen.append((one, two))
    return chosen


def _check_class(found: Networks, name: str) -> None:
    check_choice(name, found.explained, "class with a network")
