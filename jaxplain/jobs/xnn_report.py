"""What `jaxplain xnn explain` and `xnn report` write: sheets as PNG and HTML, and records."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxplain
from jaxplain import render, xnn
from jaxplain.files import staged_folder
from jaxplain.jobs.photos import Photo
from jaxplain.jobs.records import number, numbers, origin, to_json
from jaxplain.jobs.xnn_files import Networks
from jaxplain.jobs.xnn_look import SIZE, Program, Seen
from jaxplain.jobs.xnn_sheets import ClassSheet, PhotoSheet, class_sheet, pair_sheet

PHOTO_RECORD, REPORT_RECORD = "xnn-photo.json", "report.json"
_FIGURES = ("r2", "rmse", "agreement", "significant", "pull_away", "correlation", "dominance", "dead")


def save_photo(folder: Path, program: Program, photo: Photo, found: PhotoSheet) -> None:
    """Write the sheet of one photo into a folder, whole or not at all.

    sheet.png, sheet.html, xnn-photo.json.

    Raises:
      OutputError: the folder cannot be written, or holds something that is no older result.
    """
    networks = program.networks
    page = render.sheets_page([found.sheet], title=found.sheet.title, facts=_facts(networks))
    contents = {
        "sheet.png": render.to_png(render.sheet_png(found.sheet)),
        "sheet.html": page.encode(),
        PHOTO_RECORD: to_json(_photo_record(networks, photo, found)),
    }
    with staged_folder(folder, marker=PHOTO_RECORD) as staging:
        for name, content in contents.items():
            (staging / name).write_bytes(content)


def _photo_record(networks: Networks, photo: Photo, found: PhotoSheet) -> dict[str, Any]:
    index = networks.names.index(found.name)
    return {
        **origin(photo),
        "method": "xnn",
        "model": networks.classifier.name,
        "class": found.name,
        "logit": number(found.logits[index]),
        "predicted_logit": number(found.predicted),
        "top_class": networks.names[int(found.logits.argmax())],
        "contributions": numbers(found.contributions),
        "significant": [int(k) for k in np.flatnonzero(found.significant)],
        "heatmaps": {str(k): one.caption for k, one in found.seen.items()},
    }


def report(
    folder: Path,
    program: Program,
    pairs: Iterable[tuple[str, str]] | None = None,
    tell: Callable[[str], None] = lambda doing: None,
) -> dict[str, float]:
    """Write the report of all networks into a folder, whole or not at all.

    report.html, one page with everything; class-N.png and pair-N-M.png by the numbers of the classes;
    report.json.

    Args:
      folder: to write.
      program: compiled for the networks.
      pairs: explained classes to be told apart; None: all pairs.
      tell: hears what is being done.

    Returns:
      Locality of each class's heatmaps.

    Raises:
      OutputError: the folder cannot be written, or holds something that is no older result.
    """
    networks = program.networks
    chosen = list(itertools.combinations(networks.explained, 2) if pairs is None else pairs)
    classes = {name: class_sheet(program, name, tell) for name in networks.explained}
    looks = {one: classes[one].looks for one in classes}
    two_by_two = {(one, two): pair_sheet(program, one, two, tell, looks) for one, two in chosen}
    spread = {name: _locality(sheet) for name, sheet in classes.items()}
    sheets = [*(one.sheet for one in classes.values()), *two_by_two.values()]
    page = render.sheets_page(
        sheets,
        title=f"Explanation networks: {networks.photos.name}",
        summary="What makes a classifier's logit, through a few x-features of each class.",
        table=list(_table(networks, spread)),
        notes=[(name, f"{one.formula}; good: {one.better}") for name, one in xnn.MEASURES.items()],
        facts=_facts(networks),
    )
    number_of = networks.names.index
    files = {f"class-{number_of(name)}.png": one.sheet for name, one in classes.items()}
    files |= {f"pair-{number_of(a)}-{number_of(b)}.png": one for (a, b), one in two_by_two.items()}
    record = {"jaxplain": jaxplain.__version__, "locality": {name: number(v) for name, v in spread.items()}}
    with staged_folder(folder, marker=REPORT_RECORD) as staging:
        (staging / "report.html").write_text(page, encoding="utf-8")
        for name, sheet in files.items():
            (staging / name).write_bytes(render.to_png(render.sheet_png(sheet)))
        (staging / REPORT_RECORD).write_bytes(to_json(record))
    return spread


def heatmaps_of_report(networks: Networks, pairs: int) -> int:
    """How many heatmaps a report makes, at most."""
    features = sum(network.srae.config.n_features for network in networks.explained.values())
    return 2 * features + 12 * pairs


def _locality(sheet: ClassSheet) -> float:
    """Mean over x-features and photos that have a heatmap; NaN where none has."""
    maps = [seen.saliency for seen in _with_map(sheet.looks.values())]
    return float(xnn.locality(jnp.asarray(np.stack(maps))).mean()) if maps else float("nan")


def _with_map(looks: Iterable[Seen]) -> Iterator[Any]:
    return (seen for seen in looks if seen.saliency is not None)


def _table(networks: Networks, spread: dict[str, float]) -> Iterator[list[str]]:
    yield ["class", "recall", "precision", *_FIGURES, "locality"]
    for name in networks.explained:
        entry = networks.entry(name)
        figures = [entry["diagnosis"].get(figure) for figure in _FIGURES]
        changes = [" -> ".join(map(_written, entry[part])) for part in ("recall", "precision")]
        yield [name, *changes, *map(_written, figures), _written(spread[name])]


def _written(value: float | None) -> str:
    return "n/a" if value is None or not np.isfinite(value) else f"{value:.3f}"


def _facts(networks: Networks) -> Iterator[tuple[str, str]]:
    record = networks.record
    counts = record["counts"]
    yield "model", networks.classifier.name
    yield "layer", record["layer"]
    yield "photos", f"{counts['train']} to learn from, {counts['held_out']} held out for the figures"
    accuracy = record["probe_accuracy"]
    yield (
        "linear probe",
        f"names {_written(accuracy)} of the photos held out right, of {len(networks.names)} classes",
    )
    yield "heatmaps", f"iGOS++ on each x-feature, mask {SIZE} x {SIZE}, blurred baseline"
    yield "seed", str(record["seed"])
    yield "jaxplain", str(record["jaxplain"])
