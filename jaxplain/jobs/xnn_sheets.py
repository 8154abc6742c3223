"""Explanation sheets of photos, classes and pairs of classes, from fitted networks."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxplain import xnn
from jaxplain.images import ImageError, load_image
from jaxplain.jobs.xnn_files import Networks
from jaxplain.jobs.xnn_look import Program, Seen, View, look, view
from jaxplain.render import Bar, Row, Sheet, Tile

EXAMPLES, OWN, PAIR_ROWS = 4, 2, 6  # photos that activate most, photos of a class, rows of a pair's sheet


class PhotoSheet(NamedTuple):
    """The sheet of a photo and what it shows."""

    sheet: Sheet
    name: str  # of the explained class
    logits: np.ndarray  # [C], the probe's
    predicted: float  # the network's logit of the class
    contributions: np.ndarray  # [n]
    significant: np.ndarray  # bool [n]
    seen: dict[int, Seen]  # of the significant x-features


def photo_sheet(program: Program, photo: View, name: str | None = None) -> PhotoSheet:
    """Why a photo is of a class: its significant x-features; None: the explained class of highest logit."""
    networks = program.networks
    any_network = next(iter(networks.explained.values()))
    logits = np.asarray(any_network.head(photo.features[None])[0])
    if name is None:
        name = max(networks.explained, key=lambda one: logits[networks.names.index(one)])
    network = networks.explained[name]
    contributions = np.asarray(network.srae.contributions(photo.features[None])[0])
    chosen = np.asarray(xnn.significant(jnp.asarray(contributions[None]))[0])
    means = _means(networks, name)
    own = networks.names.index(name)
    seen = {int(k): look(program, network, photo, int(k)) for k in np.argsort(-contributions) if chosen[k]}
    rows = tuple(
        Row(
            f"x-feature {k + 1}",
            f"{contributions[k] / max(contributions.clip(0).sum(), 1e-9):.0%} of what speaks for {name}",
            (Bar("on this photo", float(contributions[k])), Bar("mean of the class", float(means[k, own]))),
            (Tile(one.picture, one.caption), *_examples(networks, name, k, EXAMPLES)),
        )
        for k, one in seen.items()
    )
    predicted = float(network.srae(photo.features[None])[0, 0])
    best = networks.names[int(logits.argmax())]
    notes = (
        f"The probe's top class is {best}, logit {logits.max():.2f}. Its logit for {name} is "
        f"{logits[own]:.2f}; the network says {predicted:.2f}.",
        f"{chosen.sum()} of {len(chosen)} x-features carry nine tenths of what speaks for the class. Right "
        "of each heatmap: the training photos it is most active on.",
    )
    sheet = Sheet(f"{photo.name}: why {name}?", notes, (Tile(photo.seen, photo.name),), rows)
    return PhotoSheet(sheet, name, logits, predicted, contributions, chosen, seen)


class ClassSheet(NamedTuple):
    """The sheet of a class, and its heatmaps."""

    sheet: Sheet
    looks: dict[tuple[str, int], Seen]  # by photo (its path in the record) and x-feature


def class_sheet(program: Program, name: str, tell: Callable[[str], None] = lambda doing: None) -> ClassSheet:
    """All x-features of a class on the same typical photos, and the photos that activate each most."""
    networks = program.networks
    network, entry, means = networks.explained[name], networks.entry(name), _means(networks, name)
    own = networks.names.index(name)
    others = np.delete(means, own, axis=1).mean(1)
    photos = list(_typical(program, name, OWN))
    looks: dict[tuple[str, int], Seen] = {}
    rows = []
    for k in np.argsort(-means[:, own]):
        for photo in photos:
            tell(f"{name}, x-feature {k + 1}")
            looks[photo.name, int(k)] = look(program, network, photo, int(k))
        tiles = [
            Tile(looks[photo.name, int(k)].picture, looks[photo.name, int(k)].caption) for photo in photos
        ]
        bars = (Bar(f"mean on {name}", float(means[k, own])), Bar("mean on all others", float(others[k])))
        note = f"weight {entry['x_features'][k]['weight']:.2f}"
        rows.append(
            Row(f"x-feature {k + 1}", note, bars, (*tiles, *_examples(networks, name, int(k), EXAMPLES)))
        )
    notes = (
        "Each x-feature on the same typical photos, then on the training photos it is most active on.",
        "Bars: what it adds to the logit. Numbers: how active it is, 1 being usual.",
    )
    lead = tuple(Tile(photo.seen, Path(photo.name).name) for photo in photos)
    return ClassSheet(Sheet(name, notes, lead, tuple(rows)), looks)


def pair_sheet(
    program: Program,
    one: str,
    two: str,
    tell: Callable[[str], None] = lambda doing: None,
    looks: Mapping[str, Mapping[tuple[str, int], Seen]] | None = None,
) -> Sheet:
    """Which x-features tell two classes apart: those of both networks, by how much they differ.

    Args:
      program: compiled.
      one: an explained class.
      two: another.
      tell: hears what is being done.
      looks: of class sheets that are already there, by class.
    """
    networks = program.networks
    columns = [networks.names.index(name) for name in (one, two)]
    typical = {name: next(_typical(program, name, 1), None) for name in (one, two)}
    gaps = [
        (name, k, gap * (1 if name == one else -1))
        for name in (one, two)
        for k, gap in enumerate(_means(networks, name)[:, columns[0]] - _means(networks, name)[:, columns[1]])
    ]
    rows = []
    for name, k, _ in sorted(gaps, key=lambda entry: -abs(entry[2]))[:PAIR_ROWS]:
        means = _means(networks, name)[k, columns]
        tiles = []
        for other, photo in typical.items():
            if photo is None:
                continue
            tell(f"{one} or {two}, x-feature {k + 1} of {name}")
            known = (looks or {}).get(name, {}).get((photo.name, k))
            found = known or look(program, networks.explained[name], photo, k)
            tiles.append(Tile(found.picture, f"{other} {found.caption}"))
        bars = tuple(
            Bar(f"mean on {other}", float(mean)) for other, mean in zip((one, two), means, strict=True)
        )
        rows.append(
            Row(
                f"x-feature {k + 1} of {name}",
                f"speaks for {name}",
                bars,
                (*tiles, *_examples(networks, name, k, 3)),
            )
        )
    notes = (
        "X-features of both networks, those first whose mean contribution differs most between the two.",
        "Heatmaps: the same x-feature on a typical photo of either; then the photos it is most active on.",
    )
    lead = tuple(Tile(photo.seen, name) for name, photo in typical.items() if photo)
    return Sheet(f"{one} or {two}?", notes, lead, tuple(rows))


# ---------------------------------------------------------------------------------------------------------
# What the record knows


def _means(networks: Networks, name: str) -> np.ndarray:
    """Mean contributions of a network's x-features on every class's training photos: [n, C]."""
    rows: list[Any] = [one["mean_contributions"] for one in networks.entry(name)["x_features"]]
    return np.array(rows, np.float64)


def _typical(program: Program, name: str, count: int) -> Iterator[View]:
    """Photos of highest logit of a class; those that are gone are left out."""
    networks = program.networks
    for entry in networks.entry(name)["typical"][:count]:
        if (rgb := _photo(networks.photos / entry["photo"])) is not None:
            yield view(program, entry["photo"], rgb)


def _examples(networks: Networks, name: str, k: int, count: int) -> Iterator[Tile]:
    """The training photos that x-feature k is most active on."""
    for entry in networks.entry(name)["x_features"][k]["top"][:count]:
        if (rgb := _photo(networks.photos / entry["photo"])) is not None:
            seen = networks.classifier.crop_and_resize(rgb)
            yield Tile(seen, f"{entry['class']} {entry['activation']:.2f}")


def _photo(path: Path) -> np.ndarray | None:
    try:
        return load_image(path)
    except ImageError:
        return None
