"""Attention graphs on disk: a photo's folder with its page, its drawings and a record."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain import render
from jaxplain.files import staged_folder
from jaxplain.jobs.photos import Photo
from jaxplain.jobs.records import number, origin, to_json
from jaxplain.jobs.sag import MAX_CHILDREN, SagExplanation, SagProgram
from jaxplain.sag import SufficientSets, Summary

RECORD = "sag.json"  # the file that marks a folder as a result


def save_sag(folder: Path, program: SagProgram, photo: Photo, found: SagExplanation) -> None:
    """Write one photo's attention graph into a folder, whole or not at all.

    sag.html, a page that needs nothing else; sag.svg, sag.png and sag.dot, the graph with the three steepest
    children of each node; logic.txt; photo.png, what the model saw; sag.json, the record with all
    explanations and the whole graph.

    Raises:
      OutputError: the folder cannot be written, or holds something that is no older result.
    """
    contents = dict(_contents(program, photo, found))  # before anything is on the disk
    with staged_folder(folder, marker=RECORD) as staging:
        for name, content in contents.items():
            (staging / name).write_bytes(content)


def read_summaries(folder: Path) -> list[Summary]:
    """Summaries of the results in the sub-folders of a folder, in order of their names.

    Raises:
      ValueError: a record that cannot be read; says which.
    """
    summaries = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            summaries.append(Summary.from_dict(json.loads(path.read_text(encoding="utf-8"))["summary"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} cannot be read: {error}. Make it again with jaxplain sag, or remove its folder."
            ) from error
    return summaries


def _contents(program: SagProgram, photo: Photo, found: SagExplanation) -> Iterator[tuple[str, bytes]]:
    drawn = found.graph.pruned(MAX_CHILDREN)
    pictures = (found.seen, found.hidden)
    label = f"{found.label}, p = {found.probability:.2f}"
    yield "photo.png", render.to_png(found.seen)
    yield "sag.svg", render.graph_svg(drawn, *pictures, label=label).encode()
    yield "sag.png", render.to_png(render.graph_png(drawn, *pictures, label=label))
    yield "sag.dot", drawn.to_dot().encode()
    yield "logic.txt", (found.graph.logic_form() + "\n").encode()
    page = render.graph_page(
        drawn,
        *pictures,
        known=found.graph,
        label=found.label,
        probability=found.probability,
        title=f"{photo.path.name}: attention graph",
        facts=tuple(_facts(program, photo, found)),
    )
    yield "sag.html", page.encode()
    yield RECORD, to_json(_record(program, photo, found))


def _facts(program: SagProgram, photo: Photo, found: SagExplanation) -> Iterator[tuple[str, str]]:
    """What the page says of how it was made."""
    job = program.job
    shown, diverse = len(found.graph.roots), int(found.diverse.chosen.sum())
    shared = f"{job.max_overlap} patch{'es' * (job.max_overlap != 1)}"
    yield "photo", photo.path.name
    yield "model", program.classifier.name
    yield "explained class", f"{found.label} ({found.target})"
    yield "baseline", job.baseline
    yield "threshold", f"{job.threshold:.0%} of the photo's score"
    yield "explanations found", f"{len(found.roots)} ({found.status.message})"
    yield "shown", f"{shown} of {diverse} that share at most {shared}"
    yield "beam", f"{job.beam_width} sets, {job.candidates or 'all'} candidates, up to {job.max_size} patches"
    yield "sets scored", str(int(found.roots.evaluations))


def _record(program: SagProgram, photo: Photo, found: SagExplanation) -> dict[str, Any]:
    job, classifier = program.job, program.classifier
    return {
        **origin(photo),
        "method": "sag",
        "parameters": {key: value for key, value in asdict(job).items() if key not in ("target", "seed")},
        "model": classifier.name,
        "input_size": list(classifier.spec.size),
        "target": {"index": found.target, "label": found.label},
        "score": job.kind,
        "baseline": job.baseline,
        "seed": job.seed,
        "key": list(found.key),
        "status": found.status.name.lower(),
        "probability": number(found.probability),
        "image_score": number(found.roots.image_score),
        "baseline_score": number(found.roots.baseline_score),
        "summary": found.summary.to_dict(),
        "explanations": list(_explanations(found.roots, found.diverse.chosen)),
        "logic": found.graph.logic_form(),
        "graph": json.loads(found.graph.to_json()),
        "levels": int(found.roots.levels),
        "model_evaluations": int(found.roots.evaluations),
        "seconds": {"compile": round(program.compile_seconds, 3)}
        | {name: round(value, 3) for name, value in found.seconds.items()},
    }


def _explanations(roots: SufficientSets, diverse: np.ndarray) -> Iterator[dict[str, Any]]:
    """All explanations that were found; `diverse` marks those of the diverse subset."""
    sets, scores, relative = (np.asarray(part) for part in (roots.sets, roots.scores, roots.relative))
    for row in np.flatnonzero(roots.valid):
        yield {
            "patches": np.flatnonzero(sets[row]).tolist(),
            "score": number(scores[row]),
            "relative": number(relative[row]),
            "diverse": bool(diverse[row]),
        }
