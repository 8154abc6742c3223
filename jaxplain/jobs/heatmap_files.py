"""Heatmaps on disk: a photo's folder with its pictures, its arrays and a record of how they were made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxplain import render
from jaxplain.files import staged_folder
from jaxplain.jobs.heatmap import Explanation, Program
from jaxplain.jobs.photos import Photo
from jaxplain.jobs.records import npy, number, numbers, origin, plain, to_json

RECORD = "result.json"  # the file that marks a folder as a result
_TITLES = {"igos": "I-GOS", "igos+": "iGOS+", "igos++": "iGOS++"}


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
    yield "saliency.npy", npy(heatmap.saliency)
    yield "mask.npy", npy(heatmap.mask)
    for name, picture in _pictures(program, found).items():
        yield name, render.to_png(picture)
    yield RECORD, to_json(_record(program, photo, found))


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
        **origin(photo),
        "method": job.method,
        "parameters": plain(job.parameters),
        "model": classifier.name,
        "input_size": list(classifier.spec.size),
        "target": {"index": int(found.outcome.target), "label": found.label},
        "score": job.kind,
        "baseline": job.baseline,
        "seed": job.seed,
        "key": list(found.key),
        "status": found.status.name.lower(),
        "probability": number(found.outcome.probability),
        "image_score": number(heatmap.image_score),
        "baseline_score": number(heatmap.baseline_score),
        "loss": number(heatmap.loss),
        "deletion_area": number(curves.deletion_area),
        "insertion_area": number(curves.insertion_area),
        "curves": {
            "score": "probability",
            "baseline": job.baseline,
            "steps": job.curve_steps,
            "fraction": numbers(curves.fraction),
            "deletion": numbers(curves.deletion),
            "insertion": numbers(curves.insertion),
        },
        "history": {name: numbers(row) for name, row in heatmap.history._asdict().items()},
        "model_evaluations": int(heatmap.evaluations),
        "seconds": {"compile": round(program.compile_seconds, 3), "run": round(found.seconds, 3)},
    }
