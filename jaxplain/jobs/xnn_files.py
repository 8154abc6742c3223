"""Explanation networks on disk: a folder with the probe, the networks and a record of how they were made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxplain
from jaxplain import xnn, zoo
from jaxplain.files import staged_folder
from jaxplain.jobs.features import weights_digest
from jaxplain.jobs.records import number, plain, to_json
from jaxplain.jobs.xnn import ClassFit, Dataset, Fitted, XnnJob
from jaxplain.xnn import CheckpointError, ExplanationNetwork

RECORD = "xnn.json"  # the file that marks a folder as explanation networks
PROBE, NETWORKS = "probe.safetensors", "networks"
_AGAIN = "Fit again with jaxplain xnn fit."


class Source(NamedTuple):
    """Where the features came from."""

    folder: Path  # of the photos
    model: str
    weights: Path | None
    digest: str  # of the weights


class Networks(NamedTuple):
    """Explanation networks that were read from a folder."""

    classifier: zoo.Classifier
    names: tuple[str, ...]  # of all classes of the probe
    explained: dict[str, ExplanationNetwork]
    photos: Path  # the folder they were fitted to
    record: dict[str, Any]

    def entry(self, name: str) -> dict[str, Any]:
        """What the record says of an explained class."""
        return next(entry for entry in self.record["classes"] if entry["class"] == name)


def save_networks(folder: Path, job: XnnJob, source: Source, data: Dataset, fitted: Fitted) -> None:
    """Write everything that a fit came to, whole or not at all.

    xnn.json, the record; probe.safetensors; networks/INDEX.safetensors, one an explained class.

    Raises:
      OutputError: the folder cannot be written, or holds something that is no older result.
    """
    record = to_json(_record(job, source, data, fitted))
    with staged_folder(folder, marker=RECORD) as staging:
        (staging / NETWORKS).mkdir()
        for one in fitted.classes:
            xnn.save(staging / network_file(one.target), one.found.srae, {"class": one.name})
        xnn.save_probe(staging / PROBE, fitted.probe)
        (staging / RECORD).write_bytes(record)


def network_file(index: int) -> str:
    """Of a class, within the folder. By number: names of classes may hold anything."""
    return f"{NETWORKS}/{index:04d}.safetensors"


def load_networks(folder: Path) -> Networks:
    """Read explanation networks and the classifier that they belong to.

    Raises:
      CheckpointError: no such folder, a damaged one, or a classifier of other weights.
      WeightsError: the classifier's weights cannot be read.
    """
    record = _read_record(folder)
    try:
        names, layer = tuple(record["names"]), record["layer"]
        model, weights, digest = record["model"], record["weights"], record["weights_digest"]
        entries = [(entry["class"], entry["index"]) for entry in record["classes"]]
        photos = Path(record["photos"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / RECORD} is damaged: it lacks {error}. {_AGAIN}") from error
    classifier = zoo.load(model, weights=weights)
    if weights_digest(classifier) != digest:
        raise CheckpointError(
            f"{folder} was made with other weights of {model} than those found here. Bring those back, or "
            "fit again with jaxplain xnn fit."
        )
    probe, trunk = xnn.load_probe(folder / PROBE), xnn.Trunk(classifier, layer)
    explained = {}
    for name, index in entries:
        path = folder / network_file(index)
        srae, about = xnn.load(path)
        if about.get("class") != name or srae.config.features != len(probe.kernel):
            raise CheckpointError(f"{path} is not the network of {name!r} that {RECORD} names. {_AGAIN}")
        explained[name] = ExplanationNetwork(trunk, probe, srae, index)
    return Networks(classifier, names, explained, photos, record)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{folder} holds no {RECORD}: name a folder that jaxplain xnn fit wrote, or fit first."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {_AGAIN}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: it holds no record. {_AGAIN}")
    return record


def _record(job: XnnJob, source: Source, data: Dataset, fitted: Fitted) -> dict[str, Any]:
    return {
        "jaxplain": jaxplain.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "method": "xnn",
        "model": source.model,
        "weights": None if source.weights is None else str(source.weights.resolve()),
        "weights_digest": source.digest,
        "layer": job.layer,
        "photos": str(source.folder.resolve()),
        "counts": {"train": int((~data.held).sum()), "held_out": int(data.held.sum())},
        "names": list(data.names),
        "seed": job.seed,
        "holdout": job.holdout,
        "options": plain(job.options),
        "probe_accuracy": number(fitted.accuracy),
        "classes": [_class_record(one, source.folder, data) for one in fitted.classes],
    }


def _class_record(one: ClassFit, folder: Path, data: Dataset) -> dict[str, Any]:
    def photo(row: int) -> dict[str, str]:
        found = data.photos[row]
        return {"photo": str(found.path.relative_to(folder)), "class": found.label, "sha256": found.sha256}

    weights = one.found.srae.weights[:, 0]
    return {
        "class": one.name,
        "index": one.target,
        "status": xnn.Status(int(one.found.status)).name.lower(),
        "rounds": int(one.found.rounds),
        "loss_weights": _numbers(one.found.weights._asdict()),
        "diagnosis": _numbers(one.diagnosis._asdict()),
        "recall": list(map(number, one.recall)),
        "precision": list(map(number, one.precision)),
        "typical": [photo(row) for row in one.typical],
        "x_features": [
            {
                "weight": number(weights[k]),
                "mean_contributions": [number(value) for value in one.means[k]],
                "top": [photo(row) | {"activation": number(value)} for row, value in one.top[k]],
            }
            for k in range(len(one.top))
        ],
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: number(value) for name, value in values.items()}
