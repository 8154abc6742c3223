"""Results on disk: one folder a photo, with its pictures, its arrays and a record of how they were made."""

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxplain
from jaxplain import render
from jaxplain.explain import Explanation, Photo, Program
from jaxplain.files import staged_folder

RECORD = "result.json"  # the file that marks a folder as a result
_TITLES = {"igos": "I-GOS", "igos+": "iGOS+", "igos++": "iGOS++"}


# ---------------------------------------------------------------------------------------------------------
# Which folder


class Shelf:
    """Where the results of a run go: a folder for each photo, and never the one of another photo.

    A photo's folder is named after the file's stem, or its whole name where the run holds that stem twice.
    Where an earlier run left the result of a different photo under that name, a number is added; the older
    result of the same photo (by its bytes) is replaced.
    """

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        self.root = root
        self._names = folder_names(paths)
        self._planned = {_same(name) for name in self._names.values()}

    def folder(self, photo: Photo) -> Path:
        """The folder for a photo of this run."""
        name = self._names[photo.path]
        free = (other for other in _numbered(name) if other == name or _same(other) not in self._planned)
        return next(
            folder for folder in map(self.root.joinpath, free) if not _of_another(folder, photo.sha256)
        )


def folder_names(paths: Iterable[Path]) -> dict[Path, str]:
    """A folder name for each path, all different also where upper and lower case are the same."""
    paths = list(dict.fromkeys(paths))
    stems = Counter(_same(path.stem) for path in paths)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        wanted = path.stem if stems[_same(path.stem)] == 1 else path.name
        names[path] = next(name for name in _numbered(wanted) if _same(name) not in taken)
        taken.add(_same(names[path]))
    return names


def _same(name: str) -> str:
    return name.casefold()


def _numbered(name: str) -> Iterator[str]:
    return itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))


def _of_another(folder: Path, sha256: str) -> bool:
    """Does a folder hold the result of a different photo? A record that cannot be read may well be one."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except OSError:
        return False
    except ValueError:
        return True
    return not isinstance(record, dict) or record.get("image_sha256") != sha256


# ---------------------------------------------------------------------------------------------------------
# What is in it


def save(folder: Path, program: Program, photo: Photo, found: Explanation) -> None:
    """Write one explanation into a folder, whole or not at all.

    panel.png, overlay.png, heatmap.png, photo.png; saliency.npy [H, W] and mask.npy [h, w] (float32, raw
    values); result.json, whose `key` is that of the photo: split, it gives the baseline's and the method's.

    Raises:
      OutputError: the folder cannot be written, or holds something that is no older result.
    """
    contents = dict(_contents(program, photo, found))  # before anything is on the disk
    with staged_folder(folder, marker=RECORD) as staging:
        for name, content in contents.items():
            (staging / name).write_bytes(content)


def _contents(program: Program, photo: Photo, found: Explanation) -> Iterator[tuple[str, bytes]]:
    heatmap = found.outcome.heatmap
    yield "saliency.npy", _npy(heatmap.saliency)
    yield "mask.npy", _npy(heatmap.mask)
    for name, picture in _pictures(program, found).items():
        yield name, render.to_png(picture)
    text = json.dumps(_record(program, photo, found), indent=2, allow_nan=False)
    yield RECORD, (text + "\n").encode()


def _npy(array: Any) -> bytes:
    """As `np.save` writes it, which says nothing of a full disk when it writes to one."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _pictures(program: Program, found: Explanation) -> dict[str, Any]:
    heatmap, curves = found.outcome.heatmap, found.outcome.curves
    method = program.job.method
    return {
        "photo.png": found.seen,
        "heatmap.png": render.heatmap(heatmap.saliency, found.seen.shape[:2]),
        "overlay.png": render.overlay(found.seen, heatmap.saliency),
        "panel.png": render.panel(
            found.seen,
            heatmap.saliency,
            render.Curve(curves.fraction, curves.deletion, float(curves.deletion_area)),
            render.Curve(curves.fraction, curves.insertion, float(curves.insertion_area)),
            label=found.label,
            probability=float(found.outcome.probability),
            method=_TITLES.get(method, method),
        ),
    }


def _record(program: Program, photo: Photo, found: Explanation) -> dict[str, Any]:
    job, classifier = program.job, program.classifier
    heatmap, curves = found.outcome.heatmap, found.outcome.curves
    return {
        "jaxplain": jaxplain.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "image": photo.path.name,
        "image_size": list(photo.rgb.shape[:2]),
        "image_sha256": photo.sha256,
        "method": job.method,
        "parameters": _plain(job.parameters),
        "model": classifier.name,
        "input_size": list(classifier.spec.size),
        "target": {"index": int(found.outcome.target), "label": found.label},
        "score": job.kind,
        "baseline": job.baseline,
        "seed": job.seed,
        "key": list(found.key),
        "status": found.status.name.lower(),
        "probability": _number(found.outcome.probability),
        "image_score": _number(heatmap.image_score),
        "baseline_score": _number(heatmap.baseline_score),
        "loss": _number(heatmap.loss),
        "deletion_area": _number(curves.deletion_area),
        "insertion_area": _number(curves.insertion_area),
        "curves": {
            "score": "probability",
            "baseline": job.baseline,
            "steps": job.curve_steps,
            "fraction": _numbers(curves.fraction),
            "deletion": _numbers(curves.deletion),
            "insertion": _numbers(curves.insertion),
        },
        "history": {name: _numbers(row) for name, row in heatmap.history._asdict().items()},
        "model_evaluations": int(heatmap.evaluations),
        "seconds": {"compile": round(program.compile_seconds, 3), "run": round(found.seconds, 3)},
    }


def _number(value: Any) -> float | None:
    """A float of float32's digits for JSON, which has no NaN."""
    number = float(value)
    return float(f"{number:.7g}") if np.isfinite(number) else None


def _numbers(values: Any) -> list[float | None]:
    return [_number(value) for value in values]


def _plain(value: Any) -> Any:
    """Parameters as JSON can hold them."""
    if is_dataclass(value) and not isinstance(value, type):
        numbers = {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
        return {"name": type(value).__name__, **numbers}
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return _number(value) if np.ndim(value) == 0 and not callable(value) else repr(value)
