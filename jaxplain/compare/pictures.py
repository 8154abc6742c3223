"""A comparison as pictures: a contact sheet of photos and methods, and the methods' mean curves."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxplain import render
from jaxplain.compare.measures import MEASURES
from jaxplain.compare.rows import OK, Row
from jaxplain.compare.run import Comparison
from jaxplain.compare.summary import mean_curves
from jaxplain.compare.tables import written
from jaxplain.images import load_image
from jaxplain.zoo import Classifier

_CLIPPED = 1.0  # percent of a map's values at each end that are shown in the last colour


def contact_sheet(found: Comparison, classifier: Classifier, size: int) -> Image.Image | None:
    """The first photos with the overlay of every method, and the areas under the curves below each.

    None where no map was kept.
    """
    rows = [row for row in found.rows if row.model == classifier.name and row.size == size]
    methods = list(dict.fromkeys(row.method for row in rows))
    by_photo: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_photo.setdefault(row.sha256, {})[row.method] = row
    lines = []
    for several in by_photo.values():
        first = next(iter(several.values()))
        if all(found.maps.get(row.key) is None for row in several.values()):
            continue
        seen = classifier.crop_and_resize(load_image(found.photos[first.sha256]))
        told = next((row for row in several.values() if row.label), first)
        cells = [render.Tile(seen, _caption(told))]
        cells += [_tile(found, seen, several.get(method)) for method in methods]
        lines.append(cells)
    return render.contact_sheet(["photo", *methods], lines) if lines else None


def _caption(row: Row) -> str:
    """The label last, for it may be cut."""
    return row.label if row.probability is None else f"p {row.probability:.2f} {row.label}"


def _tile(found: Comparison, seen: np.ndarray, row: Row | None) -> render.Tile:
    saliency = None if row is None else found.maps.get(row.key)
    if row is None or saliency is None or row.status != OK:
        return render.Tile(np.full_like(seen, 235), "n/a" if row is None or row.status == OK else "failed")
    low, high = np.percentile(saliency.astype(np.float64), [_CLIPPED, 100 - _CLIPPED])
    shown = render.overlay(seen, saliency, 0.6, "jet", *((low, high) if high > low else (None, None)))
    return render.Tile(shown, _areas(row))


def _areas(row: Row) -> str:
    """The first two measures, as the table writes them."""
    names = [name for name in ("deletion", "insertion") if row.values.get(name) is not None]
    return " / ".join(written(name, row.values[name] or 0.0) for name in names)


def curves(found: Comparison, model: str, size: int) -> Image.Image | None:
    """Mean deletion and insertion curves of all methods, side by side; None where nothing was measured."""
    means = mean_curves(row for row in found.rows if row.model == model and row.size == size)
    if not means:
        return None
    return Image.fromarray(np.concatenate(list(_axes(means)), axis=1))


def _axes(means: Any) -> Iterator[np.ndarray]:
    for which in ("deletion", "insertion"):
        lines = {
            name: render.Line(
                one.fraction,
                getattr(one, which),
                written(which, np.trapezoid(getattr(one, which), one.fraction)),
            )
            for name, one in means.items()
        }
        good = MEASURES[which].better
        yield render.draw_lines(lines, x="fraction of the cells", y=f"probability, {which} ({good} is good)")


def names(classifiers: Sequence[Classifier], sizes: Sequence[int]) -> dict[tuple[str, int], str]:
    """How the pictures of a classifier and size are told apart in a file's name."""
    several = len(classifiers) > 1
    return {
        (one.name, size): f"{size}-{one.name}" if several else f"{size}"
        for one in classifiers
        for size in sizes
    }
