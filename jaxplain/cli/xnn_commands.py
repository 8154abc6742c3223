"""Commands for explanation networks: `jaxplain xnn fit`, `xnn explain` and `xnn report`."""

import itertools
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jaxplain.checks import check_choice
from jaxplain.cli import options, run, screen
from jaxplain.explanation import Status
from jaxplain.files import check_replaceable, check_writable
from jaxplain.report import networks as pages
from jaxplain.runs import network_runs as networks
from jaxplain.runs.features import Extraction, FeatureStore, LabelledPhoto, class_folders, labelled_photos
from jaxplain.runs.photos import Photo, distinct
from jaxplain.runs.records import weights_digest
from jaxplain.runs.sinks import PhotoFolders
from jaxplain.xnn import SRAEConfig

app = typer.Typer(
    help="Explanation networks: which x-features make up a logit, and which distinguish similar classes.",
    epilog=options.examples(
        "jaxplain xnn fit birds/ --out gulls",
        "jaxplain xnn report gulls",
        "jaxplain xnn explain gulls photo.jpg",
    )
    + "\n\nRun fit first, on a folder with one sub-folder of photos per class; the other commands read its "
    "output.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

RESULTS, SHEETS = Path("jaxplain-xnn"), Path("jaxplain-xnn-sheets")
_ALL_PAIRS = 4  # up to this many classes, --pairs defaults to all pairs
_UNLIMITED = 10**6  # more features than any layer has


@app.command(
    epilog=options.examples(
        "jaxplain xnn fit birds/",
        "jaxplain xnn fit birds/ --classes Heermann_Gull,Ivory_Gull --out gulls",
    )
)
def fit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    classes: Annotated[str | None, typer.Option(metavar="A,B,...")] = None,
    model: options.Model = "efficientnet-lite0",
    weights: options.Weights = None,
    layer: Annotated[str, typer.Option(metavar="NAME")] = "penultimate",
    n_features: Annotated[int, typer.Option(metavar="N")] = 5,
    epochs: Annotated[int | None, typer.Option(metavar="N")] = None,
    holdout: Annotated[float, typer.Option(metavar="SHARE")] = 0.25,
    seed: options.Seed = 0,
    features: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default="the --out folder with -features appended")
    ] = None,
    white_level: options.WhiteLevel = None,
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR")] = RESULTS,
) -> None:
    """Fit explanation networks to photos sorted into one sub-folder per class.

    Features are extracted once and cached. First, a linear probe is fitted to all classes; then, for each of
    `--classes`, a network that predicts the probe's logit from a few x-features. The table evaluates the
    networks on held-out photos. An interrupted extraction resumes where it stopped.

    Args:
      folder: Folder with at least two sub-folders of photos, one per class, named after the classes.
      classes: Classes for which to fit a network; default: all.
      layer: Layer of the classifier to explain: penultimate (the input of its last layer) or maps (the output
        of its last convolution).
      n_features: Number of concepts (x-features) per network, from 1 to 99.
      epochs: Number of passes over the photos (at least 1); default: 120, or more if there are few photos.
      holdout: Share of each class's photos held out for evaluating the networks, between 0 and 1.
      features: Folder for the extracted features, which later runs can reuse.
      out_dir: Folder for the networks.
    """
    with run.clear_errors():
        names = class_folders(folder)
        explained = tuple(names if classes is None else options.split_names(classes, "classes"))
        sizes = {"n_features": n_features} | ({} if epochs is None else {"epochs": epochs})
        settings = networks.FitSettings(explained, layer, seed, holdout, sizes)  # type: ignore[arg-type]
        for name in explained:
            check_choice(name, names, f"class of {folder}")
        SRAEConfig(features=_UNLIMITED, n_features=n_features)  # raises before hours of work
        check_replaceable(out_dir, networks.RECORD)
        check_writable(out_dir.parent)
        kept = features or out_dir.with_name(f"{out_dir.name}-features")
        check_writable(kept)
        classifier = run.load_classifier(model, weights)
        left_out = Counter[str]()
        try:
            with screen.waiting(f"reading the photos of {len(names)} classes"):
                photos = labelled_photos(folder, names, left_out)
            run.show_left_out(left_out)
            extraction = _extract(FeatureStore(kept, classifier, settings.layer, white_level), photos)
            data = networks.dataset(extraction.photos, extraction.features, names, holdout)
            fitted = _fit(settings, data)
            source = networks.FitSource(folder, model, weights, weights_digest(classifier), white_level)
            networks.save_networks(out_dir, settings, source, data, fitted)
        except KeyboardInterrupt:
            run.end_interrupted(
                f"the features extracted so far are in {kept}; run the same command again to resume."
            )
    tally = run.Tally(len(extraction.photos) + len(extraction.failures), failures=extraction.failures)
    tally.rows = [_row(fitted_class) for fitted_class in fitted.classes]
    run.finish(tally, _table(fitted, out_dir), [*extraction.remarks, *_remarks(fitted)])


def _extract(store: FeatureStore, photos: list[LabelledPhoto]) -> Extraction:
    missing = len(store.missing(photos))
    with screen.ProgressBar(missing) as bar:
        if missing:
            bar.tell(f"features of {run.count_of(missing, 'photo')}")
        return store.extract(
            photos, bar.advance
        )  # in this thread, so that Ctrl-C does not lose extracted features


def _fit(settings: networks.FitSettings, data: networks.FeatureDataset) -> networks.FittedNetworks:
    with screen.ProgressBar(len(settings.explained) + 1) as bar:  # plus one for the probe
        return run.interruptible(partial(networks.fit_networks, settings, data, bar.tell, bar.advance))


def _row(fitted_class: networks.FittedClass) -> tuple[str, ...]:
    measures = fitted_class.diagnosis
    return (
        fitted_class.name,
        f"{float(measures.r2):.3f}",
        f"{float(measures.rmse):.2f}",
        f"{fitted_class.recall.before:.2f} {fitted_class.recall.after:.2f}",
        f"{fitted_class.precision.before:.2f} {fitted_class.precision.after:.2f}",
        f"{float(measures.agreement):.3f}",
        f"{float(measures.significant):.1f}",
        f"{float(measures.pull_away):.2f}",
        f"{float(measures.dominance):.2f}",
        str(int(measures.dead)),
    )


def _table(fitted: networks.FittedNetworks, out_dir: Path) -> Table:
    result = run.table(
        "class", ">R2", ">RMSE", ">recall", ">precision", ">agreement", ">significant", ">pull-away",
        ">dominance", ">dead",
    )  # fmt: skip
    result.caption = screen.printable(
        f"Measured on held-out photos; the probe's accuracy on them is {fitted.accuracy:.1%}. Recall and "
        f"precision are given with the probe's logit, then with the network's. Next: "
        f"jaxplain xnn report {out_dir}"
    )
    return result


def _remarks(fitted: networks.FittedNetworks) -> list[str]:
    statuses = ((fitted_class.name, Status(int(fitted_class.fit.status))) for fitted_class in fitted.classes)
    return [f"{name}: {status.message}" for name, status in statuses if status is not Status.OK]


# ---------------------------------------------------------------------------------------------------------
# Sheets

NetworkFolder = Annotated[
    Path, typer.Argument(metavar="XNN", help="Output folder of jaxplain xnn fit.", show_default=False)
]


@app.command(epilog=options.examples("jaxplain xnn explain gulls photo.jpg --class Ivory_Gull"))
def explain(
    folder: NetworkFolder,
    images: options.Images,
    name: Annotated[str | None, typer.Option("--class", metavar="NAME")] = None,
    white_level: options.WhiteLevel = None,
    out_dir: options.Out = SHEETS,
) -> None:
    """Explain photos in terms of a class's significant x-features.

    Each photo gets sheet.html and sheet.png, which show the x-features' heatmaps and the photos that activate
    them, and a record.

    Args:
      name: Class to explain; default: of the classes that have a network, the one with the highest logit.
    """
    with run.clear_errors():
        loaded = _load(folder)
        if name is not None:
            _check_class(loaded, name)
        check_writable(out_dir)
        paths = distinct(images)
        names, folders = run.display_names(paths), PhotoFolders(out_dir, paths, pages.PHOTO_RECORD)

        def rows(loaded: networks.LoadedNetworks, photo: Photo) -> Iterator[tuple[str, ...]]:
            prepared = run.interruptible(partial(loaded.prepare, photo.path.name, photo.rgb))
            reading = run.interruptible(partial(loaded.read, prepared, name))
            pages.save_photo(folders.folder(photo), loaded, photo, prepared, reading)
            logit = reading.logits[loaded.names.index(reading.name)]
            features = ", ".join(f"{k + 1} ({reading.contributions[k]:+.2f})" for k in reading.maps)
            yield names[photo.path], reading.name, f"{logit:.2f}", f"{reading.predicted:.2f}", features

        level = loaded.white_level if white_level is None else white_level
        tally = run.for_each(paths, lambda: loaded, rows, white_level=level)
    result = run.table("image", "class", ">logit", ">network", "significant x-features")
    result.caption = screen.printable(f"Open sheet.html in the folders of {out_dir}")
    run.finish(tally, result, kept=f"Their sheets are in {out_dir}. {run.LEFT}")


@app.command(
    epilog=options.examples(
        "jaxplain xnn report gulls", "jaxplain xnn report gulls --pairs Ivory_Gull:Heermann_Gull"
    )
)
def report(
    folder: NetworkFolder,
    pairs: Annotated[str | None, typer.Option(metavar="A:B,...")] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", show_default="the XNN folder with -report appended")
    ] = None,
) -> None:
    """Show each network's x-features and which of them distinguish two classes, on a page and as PNGs.

    Args:
      pairs: Pairs of classes to distinguish; default: all pairs if there are at most four classes.
      out_dir: Folder for the page and its images.
    """
    with run.clear_errors():
        loaded = _load(folder)
        chosen = _pairs(loaded, pairs)
        target = out_dir or folder.with_name(f"{folder.resolve().name}-report")
        check_replaceable(target, pages.REPORT_RECORD)
        check_writable(target.parent)
        try:
            with screen.ProgressBar(pages.count_maps(loaded, len(chosen))) as bar:
                bar.tell("compiling")

                def on_map(doing: str) -> None:
                    bar.tell(doing)
                    bar.advance()

                localities = run.interruptible(lambda: pages.save_report(target, loaded, chosen, on_map))
        except KeyboardInterrupt:
            run.end_interrupted("nothing was written; run the same command again to start over.")
    result = run.table("class", ">locality of its heatmaps")
    for name, value in localities.items():
        result.add_row(screen.printable(name), f"{value:.3f}")
    result.caption = screen.printable(f"Open {target / 'report.html'}")
    screen.show(result)


def _load(folder: Path) -> networks.LoadedNetworks:
    run.check_device()
    with screen.waiting(f"loading {folder}"):
        return networks.load_networks(folder)


def _pairs(loaded: networks.LoadedNetworks, pairs: str | None) -> list[tuple[str, str]]:
    if pairs is None:
        classes = list(loaded.explained)
        return list(itertools.combinations(classes, 2)) if len(classes) <= _ALL_PAIRS else []
    chosen = []
    for text in pairs.split(","):
        one, colon, two = text.strip().partition(":")
        if not colon or one == two:
            raise ValueError(
                f"--pairs must be pairs of different classes, such as A:B or A:B,A:C; got {text!r}."
            )
        _check_class(loaded, one)
        _check_class(loaded, two)
        chosen.append((one, two))
    return chosen


def _check_class(loaded: networks.LoadedNetworks, name: str) -> None:
    check_choice(name, loaded.explained, "class with a network")
