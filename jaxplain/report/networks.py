"""Sheets and pages for explanation networks: the evidence for a class, and what distinguishes two classes."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxplain
from jaxplain import overlay, xnn
from jaxplain.explanation import Status
from jaxplain.images import ImageError, load_image
from jaxplain.report.sheets import Bar, Sheet, SheetRow, Tile, sheet_png, sheets_page
from jaxplain.runs.network_runs import SIZE, FeatureMap, LoadedNetworks, PhotoReading, PreparedPhoto
from jaxplain.runs.photos import Photo
from jaxplain.runs.records import number, numbers, origin, to_json
from jaxplain.runs.sinks import write_folder

PHOTO_RECORD, REPORT_RECORD = "xnn-photo.json", "report.json"
EXAMPLES, PAIR_EXAMPLES, OWN, PAIR_ROWS = 4, 3, 2, 6  # most active photos, photos per class, rows per pair
_FIGURES = ("r2", "rmse", "agreement", "significant", "pull_away", "correlation", "dominance", "dead")
_NO_MAP = {  # short enough for a caption
    Status.NOT_FINITE: "not finite",
    Status.NOT_ABOVE_BASELINE: "not above blur",
    Status.NOT_MOVED: "no mask lowers it",
}
Maps = Mapping[tuple[str, int], FeatureMap]  # keyed by photo (its path in the record) and x-feature


# ---------------------------------------------------------------------------------------------------------
# Sheets


def photo_sheet(networks: LoadedNetworks, photo: PreparedPhoto, reading: PhotoReading) -> Sheet:
    """Return the sheet for a photo, with a class's significant x-features."""
    name, contributions = reading.name, reading.contributions
    own = networks.names.index(name)
    means, positive = networks.means(name)[:, own], max(contributions.clip(0).sum(), 1e-9)
    rows = tuple(
        SheetRow(
            f"x-feature {k + 1}",
            f"{contributions[k] / positive:.0%} of the evidence for {name}",
            (Bar("on this photo", float(contributions[k])), Bar("mean of the class", float(means[k]))),
            (_map_tile(photo, feature_map), *_examples(networks, name, k, EXAMPLES)),
        )
        for k, feature_map in reading.maps.items()
    )
    best = int(reading.logits.argmax())
    notes = (
        f"The probe's top class is {networks.names[best]}, logit {reading.logits[best]:.2f}. Its logit for "
        f"{name} is {reading.logits[own]:.2f}; the network predicts {reading.predicted:.2f}.",
        f"{reading.significant.sum()} of {len(contributions)} x-features carry 90% of the evidence for the "
        "class. To the right of each heatmap: the training photos on which the x-feature is most active.",
    )
    return Sheet(f"{photo.name}: why {name}?", notes, (Tile(photo.pixels, photo.name),), rows)


class ClassSheet(NamedTuple):
    """The sheet for a class, and its maps."""

    sheet: Sheet
    maps: Maps


def class_sheet(
    networks: LoadedNetworks, name: str, on_map: Callable[[str], None] = lambda doing: None
) -> ClassSheet:
    """Return a class's sheet: its x-features on typical photos, and the photos that activate each most."""
    means, own = networks.means(name), networks.names.index(name)
    others = np.delete(means, own, axis=1).mean(1)
    photos = list(_typical(networks, name, OWN))
    maps: dict[tuple[str, int], FeatureMap] = {}
    rows = []
    for k in map(int, np.argsort(-means[:, own])):
        for photo in photos:
            on_map(f"{name}, x-feature {k + 1}")
            maps[photo.name, k] = networks.look(name, k, photo)
        tiles = (_map_tile(photo, maps[photo.name, k]) for photo in photos)
        bars = (Bar(f"mean on {name}", float(means[k, own])), Bar("mean on all others", float(others[k])))
        note = f"weight {networks.entry(name)['x_features'][k]['weight']:.2f}"
        examples = _examples(networks, name, k, EXAMPLES)
        rows.append(SheetRow(f"x-feature {k + 1}", note, bars, (*tiles, *examples)))
    notes = (
        "Each x-feature on the same typical photos, then the training photos on which it is most active.",
        "Bars: its contribution to the logit. Numbers: its activation; 1 is typical.",
    )
    lead = tuple(Tile(photo.pixels, Path(photo.name).name) for photo in photos)
    return ClassSheet(Sheet(name, notes, lead, tuple(rows)), maps)


def pair_sheet(
    networks: LoadedNetworks,
    one: str,
    two: str,
    on_map: Callable[[str], None] = lambda doing: None,
    known: Mapping[str, Maps] | None = None,
) -> Sheet:
    """Return the sheet of x-features that best distinguish two classes, most distinctive first.

    Args:
      networks: the loaded networks.
      one: name of an explained class.
      two: name of another explained class.
      on_map: called with a description before each map is computed.
      known: maps from class sheets to reuse, by class.
    """
    columns = [networks.names.index(name) for name in (one, two)]
    typical = {name: next(_typical(networks, name, 1), None) for name in (one, two)}
    pairs = [
        (name, k, means) for name in (one, two) for k, means in enumerate(networks.means(name)[:, columns])
    ]
    rows = []
    for name, k, means in sorted(pairs, key=lambda pair: -abs(pair[2][0] - pair[2][1]))[:PAIR_ROWS]:
        tiles = []
        for other, photo in typical.items():
            if photo is None:
                continue
            on_map(f"{one} or {two}, x-feature {k + 1} of {name}")
            feature_map = (known or {}).get(name, {}).get((photo.name, k)) or networks.look(name, k, photo)
            tiles.append(_map_tile(photo, feature_map, other))
        bars = tuple(Bar(f"mean on {other}", float(m)) for other, m in zip((one, two), means, strict=True))
        examples = _examples(networks, name, k, PAIR_EXAMPLES)
        rows.append(
            SheetRow(f"x-feature {k + 1} of {name}", f"evidence for {name}", bars, (*tiles, *examples))
        )
    notes = (
        "X-features of both networks; first those whose mean contribution differs most between the classes.",
        "Heatmaps: the x-feature on a typical photo of each class; then the photos that activate it most.",
    )
    lead = tuple(Tile(photo.pixels, name) for name, photo in typical.items() if photo)
    return Sheet(f"{one} or {two}?", notes, lead, tuple(rows))


def caption(found: FeatureMap) -> str:
    """Return an x-feature's activation and, if it has no heatmap, the reason."""
    if found.status is None:
        return "not active"
    reason = _NO_MAP.get(found.status)
    return f"{found.activation:.2f}" if reason is None else f"{found.activation:.2f}, {reason}"


def _map_tile(photo: PreparedPhoto, feature_map: FeatureMap, prefix: str = "") -> Tile:
    """Return the photo overlaid with its heatmap, or the photo alone if it has no heatmap."""
    shown = (
        photo.pixels if feature_map.saliency is None else overlay.overlay(photo.pixels, feature_map.saliency)
    )
    return Tile(shown, f"{prefix} {caption(feature_map)}".strip())


def _typical(networks: LoadedNetworks, name: str, count: int) -> Iterator[PreparedPhoto]:
    """Yield a class's photos with the highest logits, skipping missing files."""
    for entry in networks.entry(name)["typical"][:count]:
        if (rgb := _read_or_none(networks, entry["photo"])) is not None:
            yield networks.prepare(entry["photo"], rgb)


def _examples(networks: LoadedNetworks, name: str, k: int, count: int) -> Iterator[Tile]:
    """Yield the training photos on which x-feature k is most active, skipping missing files."""
    for entry in networks.entry(name)["x_features"][k]["top"][:count]:
        if (rgb := _read_or_none(networks, entry["photo"])) is not None:
            pixels = networks.classifier.crop_and_resize(rgb)
            yield Tile(pixels, f"{entry['class']} {entry['activation']:.2f}")


def _read_or_none(networks: LoadedNetworks, photo: str) -> np.ndarray | None:
    try:
        return load_image(networks.photos / photo, white_level=networks.white_level)
    except ImageError:
        return None


# ---------------------------------------------------------------------------------------------------------
# Files


def save_photo(
    folder: Path, networks: LoadedNetworks, photo: Photo, prepared: PreparedPhoto, reading: PhotoReading
) -> None:
    """Write one photo's sheet to a folder, atomically, as sheet.png, sheet.html and xnn-photo.json.

    Raises:
      OutputError: the folder cannot be written, or exists and is not an earlier result.
    """
    sheet = photo_sheet(networks, prepared, reading)
    record = {
        **origin(photo),
        "method": "xnn",
        "model": networks.classifier.name,
        "class": reading.name,
        "logit": number(reading.logits[networks.names.index(reading.name)]),
        "predicted_logit": number(reading.predicted),
        "top_class": networks.names[int(reading.logits.argmax())],
        "contributions": numbers(reading.contributions),
        "significant": [int(k) for k in np.flatnonzero(reading.significant)],
        "heatmaps": {str(k): caption(feature_map) for k, feature_map in reading.maps.items()},
    }
    contents = {
        "sheet.png": sheet_png(sheet),
        "sheet.html": sheets_page([sheet], title=sheet.title, facts=list(_facts(networks))).encode(),
        PHOTO_RECORD: to_json(record),
    }
    write_folder(folder, contents, PHOTO_RECORD)


def save_report(
    folder: Path,
    networks: LoadedNetworks,
    pairs: Iterable[tuple[str, str]] | None = None,
    on_map: Callable[[str], None] = lambda doing: None,
) -> dict[str, float]:
    """Write a report on all networks to a folder, atomically.

    The files are report.html (one page with everything), class-N.png and pair-N-M.png (numbered by class
    index), and report.json.

    Args:
      folder: the output folder.
      networks: the loaded networks.
      pairs: pairs of explained classes to distinguish. If None, all pairs.
      on_map: called with a description before each map is computed.

    Returns:
      The locality of each class's maps.

    Raises:
      OutputError: the folder cannot be written, or exists and is not an earlier result.
    """
    chosen = list(itertools.combinations(networks.explained, 2) if pairs is None else pairs)
    classes = {name: class_sheet(networks, name, on_map) for name in networks.explained}
    known = {name: one.maps for name, one in classes.items()}
    two_by_two = {(one, two): pair_sheet(networks, one, two, on_map, known) for one, two in chosen}
    localities = {name: _locality(one.maps) for name, one in classes.items()}
    page = sheets_page(
        [*(one.sheet for one in classes.values()), *two_by_two.values()],
        title=f"Explanation networks: {networks.photos.name}",
        summary="The classifier's logit of each class, broken down into a few x-features.",
        table=list(_table(networks, localities)),
        notes=[(name, f"{one.formula}; good: {one.better}") for name, one in xnn.MEASURES.items()],
        facts=list(_facts(networks)),
    )
    index = networks.names.index
    pictures = {f"class-{index(name)}.png": one.sheet for name, one in classes.items()}
    pictures |= {f"pair-{index(a)}-{index(b)}.png": sheet for (a, b), sheet in two_by_two.items()}
    record = {
        "jaxplain": jaxplain.__version__,
        "locality": {name: number(value) for name, value in localities.items()},
    }
    contents = {
        "report.html": page.encode(),
        **{name: sheet_png(sheet) for name, sheet in pictures.items()},
        REPORT_RECORD: to_json(record),
    }
    write_folder(folder, contents, REPORT_RECORD)
    return localities


def count_maps(networks: LoadedNetworks, pairs: int) -> int:
    """Return the maximum number of maps in a report with `pairs` pairs."""
    features = sum(network.srae.config.n_features for network in networks.explained.values())
    return OWN * features + 2 * PAIR_ROWS * pairs


def _locality(maps: Maps) -> float:
    """Return the mean locality over all maps; NaN if there are none."""
    saliency = [feature_map.saliency for feature_map in maps.values() if feature_map.saliency is not None]
    return float(xnn.locality(jnp.asarray(np.stack(saliency))).mean()) if saliency else float("nan")


def _table(networks: LoadedNetworks, localities: dict[str, float]) -> Iterator[list[str]]:
    yield ["class", "recall", "precision", *_FIGURES, "locality"]
    for name in networks.explained:
        entry = networks.entry(name)
        figures = [entry["diagnosis"].get(figure) for figure in _FIGURES]
        changes = [" -> ".join(map(_text, entry[part])) for part in ("recall", "precision")]
        yield [name, *changes, *map(_text, figures), _text(localities[name])]


def _text(value: float | None) -> str:
    return "n/a" if value is None or not np.isfinite(value) else f"{value:.3f}"


def _facts(networks: LoadedNetworks) -> Iterator[tuple[str, str]]:
    record: dict[str, Any] = networks.record
    counts, classes = record["counts"], len(networks.names)
    yield "model", networks.classifier.name
    yield "layer", record["layer"]
    yield "photos", f"{counts['train']} for training, {counts['held_out']} held out for evaluation"
    yield (
        "linear probe",
        f"accuracy {_text(record['probe_accuracy'])} on held-out photos of {classes} classes",
    )
    yield "heatmaps", f"iGOS++ on each x-feature, mask {SIZE} x {SIZE}, blurred baseline"
    yield "seed", str(record["seed"])
    yield "jaxplain", str(record["jaxplain"])
