"""The main job: from a photo file to a folder with its heatmap, its curves and a record of how it was made.

This is the rim: it reads and writes files and times compilation. The explanation itself is a pure function of
a score (`jaxplain.masks`, `jaxplain.metrics`).
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxplain
from jaxplain import render
from jaxplain.checks import check_choice
from jaxplain.files import staged_folder
from jaxplain.masks import METHODS, Heatmap, Status, parameters
from jaxplain.metrics import Curves, insertion_deletion
from jaxplain.perturb import BASELINES, baseline
from jaxplain.scores import KINDS, class_score, top_class
from jaxplain.zoo import Classifier

RECORD = "result.json"  # the file that marks a folder as a result


@dataclass(frozen=True)
class Job:
    """What to do with every photo of a run."""

    method: str = "igos++"
    options: Mapping[str, Any] = field(default_factory=dict)  # of the method, but `key`
    target: int | None = None  # class index; None explains the top prediction of each photo
    baseline: str = "blur"
    kind: str = "probability"  # of the score
    seed: int = 0
    curve_steps: int = 50

    def __post_init__(self) -> None:
        check_choice(self.method, METHODS, "method")
        check_choice(self.baseline, BASELINES, "baseline")
        check_choice(self.kind, KINDS, "score kind")
        parameters(self.method, self.options)


class Outcome(NamedTuple):
    """What the compiled program returns for one photo."""

    target: Array  # int32 [], the explained class
    probability: Array  # [], its softmax probability on the photo
    heatmap: Heatmap
    curves: Curves


class Program(NamedTuple):
    """The job compiled for one classifier; every photo of a run goes through it."""

    run: Callable[..., Outcome]
    compile_seconds: float


@dataclass(frozen=True)
class Explanation:
    """One explained photo."""

    photo: np.ndarray  # uint8 [H, W, 3], what the model saw
    label: str
    outcome: Outcome  # of NumPy arrays
    seconds: float  # of the compiled run

    @property
    def status(self) -> Status:
        """How the optimisation ended."""
        return Status(int(self.outcome.heatmap.status))


def compile_job(job: Job, classifier: Classifier) -> Program:
    """Compile a job for a classifier: one program for all photos and targets."""
    shape = jax.ShapeDtypeStruct((*classifier.spec.size, 3), jnp.float32)
    target = jax.ShapeDtypeStruct((), jnp.int32)
    start = time.perf_counter()
    traced = jax.jit(partial(_explain, job)).lower(classifier, shape, shape, target, jax.random.key(0))
    run = traced.compile()
    return Program(run, time.perf_counter() - start)


def _explain(
    job: Job, classifier: Classifier, image: Array, background: Array, target: Array, key: Array
) -> Outcome:
    target = jnp.where(target < 0, top_class(classifier, image), target)
    score = class_score(classifier, target, job.kind)  # type: ignore[arg-type]
    heatmap = METHODS[job.method](score, image, background, key=key, **job.options)
    # Measured on the probability, whatever was optimised, and at the mask's own resolution.
    probability = class_score(classifier, target)
    curves = insertion_deletion(
        probability,
        image,
        background,
        1.0 - heatmap.mask,
        steps=job.curve_steps,
        batch_size=job.options.get("batch_size"),
    )
    return Outcome(target, curves.deletion[0], heatmap, curves)


def explain_photo(job: Job, classifier: Classifier, program: Program, rgb: np.ndarray) -> Explanation:
    """Explain one photo, uint8 [H, W, 3] of any size.

    Its key comes from the seed and its pixels, so a result depends on neither order nor file name.
    """
    photo = classifier.crop_and_resize(rgb)
    image = classifier.normalize(photo)
    key = jax.random.fold_in(jax.random.key(job.seed), zlib.crc32(photo.tobytes()))
    baseline_key, mask_key = jax.random.split(key)
    background = baseline(job.baseline, image, normalize=classifier.normalize, key=baseline_key)
    target = jnp.int32(-1 if job.target is None else job.target)
    start = time.perf_counter()
    outcome = jax.block_until_ready(program.run(classifier, image, background, target, mask_key))
    seconds = time.perf_counter() - start
    return Explanation(
        photo, classifier.labels[int(outcome.target)], jax.tree_util.tree_map(np.asarray, outcome), seconds
    )


def save(
    folder: Path, job: Job, classifier: Classifier, program: Program, source: Path, found: Explanation
) -> None:
    """Write one explanation into a folder, whole or not at all.

    panel.png, overlay.png, heatmap.png, photo.png; saliency.npy [H, W] and mask.npy [h, w] (float32, raw
    values); result.json.

    Raises:
      OutputError: the folder cannot be written, or holds something that is no older result.
    """
    heatmap = found.outcome.heatmap
    with staged_folder(folder, marker=RECORD) as staging:
        np.save(staging / "saliency.npy", heatmap.saliency)
        np.save(staging / "mask.npy", heatmap.mask)
        for name, picture in _pictures(job, found).items():
            (staging / name).write_bytes(render.to_png(picture))
        record = _record(job, classifier, program, source, found)
        (staging / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")


def _pictures(job: Job, found: Explanation) -> dict[str, Any]:
    heatmap, curves = found.outcome.heatmap, found.outcome.curves
    return {
        "photo.png": found.photo,
        "heatmap.png": render.heatmap(heatmap.saliency, found.photo.shape[:2]),
        "overlay.png": render.overlay(found.photo, heatmap.saliency),
        "panel.png": render.panel(
            found.photo,
            heatmap.saliency,
            render.Curve(curves.fraction, curves.deletion, float(curves.deletion_area)),
            render.Curve(curves.fraction, curves.insertion, float(curves.insertion_area)),
            label=found.label,
            probability=float(found.outcome.probability),
            method=DISPLAY_NAMES.get(job.method, job.method),
        ),
    }


DISPLAY_NAMES = {"igos": "I-GOS", "igos+": "iGOS+", "igos++": "iGOS++"}


def _record(
    job: Job, classifier: Classifier, program: Program, source: Path, found: Explanation
) -> dict[str, Any]:
    heatmap, curves = found.outcome.heatmap, found.outcome.curves
    return {
        "jaxplain": jaxplain.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "image": source.name,
        "method": job.method,
        "parameters": _plain(parameters(job.method, job.options)),
        "model": classifier.name,
        "input_size": list(classifier.spec.size),
        "target": {"index": int(found.outcome.target), "label": found.label},
        "score": job.kind,
        "baseline": job.baseline,
        "seed": job.seed,
        "status": found.status.name.lower(),
        "probability": _number(found.outcome.probability),
        "image_score": _number(heatmap.image_score),
        "baseline_score": _number(heatmap.baseline_score),
        "loss": _number(heatmap.loss),
        "deletion_area": _number(curves.deletion_area),
        "insertion_area": _number(curves.insertion_area),
        "curves": {
            name: [_number(value) for value in getattr(curves, name)]
            for name in ("fraction", "deletion", "insertion")
        }
        | {"steps": job.curve_steps, "baseline": job.baseline, "score": "probability"},
        "history": {name: [_number(v) for v in row] for name, row in heatmap.history._asdict().items()},
        "model_evaluations": int(heatmap.evaluations),
        "seconds": {"compile": round(program.compile_seconds, 3), "run": round(found.seconds, 3)},
    }


def _number(value: Any) -> float | None:
    """A float for JSON, which has no NaN."""
    number = float(value)
    return round(number, 7) if np.isfinite(number) else None


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
