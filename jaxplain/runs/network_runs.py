"""Fit, apply, save and load explanation networks for class folders of photos."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxplain
from jaxplain import masks, xnn, zoo
from jaxplain.checks import check_choice, check_positive_int, check_seed
from jaxplain.explanation import Explanation, Status
from jaxplain.files import staged_folder
from jaxplain.runs.features import LabelledPhoto
from jaxplain.runs.records import number, numbers, plain, to_json, weights_digest
from jaxplain.runs.subject import Request, Subject, make_subject, method_key, request
from jaxplain.xnn import CheckpointError, ExplanationNetwork

RECORD = "xnn.json"  # the file that marks a folder as explanation networks
PROBE, NETWORKS = "probe.safetensors", "networks"
# Mask size for x-features: they are object parts, and coarser masks are smoother.
SIZE = 14
STEPS = 6000  # minimum number of optimization steps
TOP, TYPICAL = 6, 3  # photos listed per x-feature and per class
_REFIT = "Fit again with jaxplain xnn fit."


@dataclass(frozen=True)
class FitSettings:
    """Settings for fitting explanation networks.

    Raises:
      ValueError: a number is out of range, the layer is unknown, or the classes are empty or repeated.
    """

    explained: tuple[str, ...]  # names of the classes that get a network
    layer: xnn.FeatureLayer = "penultimate"
    seed: int = 0
    holdout: float = 0.25  # fraction of each class's photos held out for evaluation
    options: dict[str, Any] = field(default_factory=dict)  # of `xnn.fit`

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_choice(self.layer, get_args(xnn.FeatureLayer), "layer")
        if "epochs" in self.options:
            check_positive_int(self.options["epochs"], "epochs")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout must be between 0 and 1, got {self.holdout}.")
        if not self.explained or len(set(self.explained)) != len(self.explained):
            raise ValueError(
                f"name at least one class, and each class only once; got {', '.join(self.explained)!r}."
            )


class FeatureDataset(NamedTuple):
    """Photos, their features, and a flag for those held out."""

    photos: list[LabelledPhoto]
    features: np.ndarray  # float32 [N, D]
    names: tuple[str, ...]  # names of all C classes
    labels: np.ndarray  # int [N]
    held: np.ndarray  # bool [N]

    @property
    def evaluated(self) -> np.ndarray:
        """Mask of the photos used for evaluation, bool [N]: the held-out photos, or all if there are none."""
        return self.held if self.held.any() else ~self.held


class BeforeAfter(NamedTuple):
    """A measure computed with the probe's logit, and with the network's logit in its place."""

    before: float
    after: float


class FittedClass(NamedTuple):
    """The network for one class and its evaluation on the held-out photos."""

    name: str
    target: int  # class index
    fit: xnn.FitResult
    diagnosis: xnn.Diagnosis
    recall: BeforeAfter
    precision: BeforeAfter
    means: np.ndarray  # [n, C], mean contribution of each x-feature to the training photos of each class
    top: list[list[tuple[int, float]]]  # for each x-feature: most active training photos, and activations
    typical: list[int]  # the class's training photos with the highest logits


class FittedNetworks(NamedTuple):
    """The result of `fit_networks`."""

    probe: xnn.Probe
    accuracy: float  # the probe's accuracy on the held-out photos
    classes: list[FittedClass]


def dataset(
    photos: list[LabelledPhoto], features: np.ndarray, names: list[str], holdout: float
) -> FeatureDataset:
    """Split photos by file digest, so that the split does not depend on names or order.

    Raises:
      ValueError: a class has no training photos.
    """
    labels = np.array([names.index(photo.label) for photo in photos])
    held = np.zeros(len(photos), bool)
    for index, name in enumerate(names):
        rows = sorted(np.flatnonzero(labels == index), key=lambda row: photos[row].sha256)
        held[rows[: int(holdout * len(rows))]] = True
        if not (~held[rows]).any():
            raise ValueError(
                f"no photo of class {name!r} can be read; repair its photos, or remove its sub-folder."
            )
    return FeatureDataset(photos, features, tuple(names), labels, held)


def fit_networks(
    settings: FitSettings,
    data: FeatureDataset,
    on_start: Callable[[str], None] = lambda doing: None,
    on_done: Callable[[], None] = lambda: None,
) -> FittedNetworks:
    """Fit a linear probe for all classes, and one SRAE for each explained class.

    Args:
      settings: settings of the fit, including the classes to explain.
      data: photos of all classes.
      on_start: called with a description of each fit before it starts.
      on_done: called after each fit.

    Raises:
      ValueError: a class is unknown, there are too few photos, or `xnn.fit` raises an error.
    """
    for name in settings.explained:
        if name not in data.names:
            raise ValueError(f"there is no class {name!r}; the classes are {', '.join(data.names)}.")
    on_start("linear probe")
    train = ~data.held
    # A tenth of the training photos, at least one, decides when a fit has converged.
    if int(settings.options.get("validation", 0.1) * train.sum()) < 1:
        raise ValueError(
            f"{train.sum()} training photos are too few for an explanation network: at least 10 are needed, "
            "and more are better. Add photos to the folders of the classes."
        )
    features = jnp.asarray(data.features)
    probe = xnn.linear_probe(features[train], jnp.asarray(data.labels[train]), len(data.names))
    on_done()
    logits = probe(features)
    correct = (np.asarray(logits).argmax(1) == data.labels)[data.evaluated]
    classes = []
    for name in settings.explained:
        on_start(f"network of {name}")
        classes.append(_fit_class(settings, data, features, logits, data.names.index(name)))
        on_done()
    return FittedNetworks(probe, float(correct.mean()), classes)


def schedule(photos: int, batch_size: int = 50) -> dict[str, int]:
    """Return the epochs for fitting `photos` photos: 120 as published, or more to reach `STEPS` steps."""
    epochs = max(120, -(-STEPS // max(1, photos // batch_size)))
    return {"epochs": epochs, "decay_every": epochs // 3}


def _fit_class(
    settings: FitSettings, data: FeatureDataset, features: Array, logits: Array, index: int
) -> FittedClass:
    train, evaluated = ~data.held, data.evaluated
    key = jax.random.fold_in(jax.random.key(settings.seed), index)
    output: Any = "relu" if np.min(data.features) >= 0 else "linear"
    options = {"output": output, **schedule(int(train.sum()))} | settings.options
    fit = jax.block_until_ready(xnn.fit(features[train], logits[train, index], key=key, **options))
    unseen, before = features[evaluated], logits[evaluated]
    labels = jnp.asarray(data.labels[evaluated])
    after = xnn.replace_logit(before, index, fit.srae(unseen)[:, 0])
    recall, precision = (
        BeforeAfter(*map(float, pair))
        for pair in zip(
            *(xnn.recall_and_precision(one, labels, index) for one in (before, after)), strict=True
        )
    )
    rows = np.flatnonzero(train)
    contributions = np.asarray(fit.srae.contributions(features[rows]))
    active, row_labels = np.asarray(fit.srae.x_features(features[rows])), data.labels[rows]
    own = rows[row_labels == index]
    return FittedClass(
        name=data.names[index],
        target=index,
        fit=fit,
        diagnosis=xnn.diagnose(fit.srae, unseen, before[:, index], every_logit=before, label=index),
        recall=recall,
        precision=precision,
        means=np.stack(
            [contributions[row_labels == label].mean(0) for label in range(len(data.names))], axis=1
        ),
        top=[
            [(int(rows[row]), float(column[row])) for row in np.argsort(-column)[:TOP] if column[row] > 0]
            for column in active.T
        ],
        typical=own[np.argsort(-np.asarray(logits)[own, index])[:TYPICAL]].tolist(),
    )


# ---------------------------------------------------------------------------------------------------------
# Explaining photos


class PreparedPhoto(NamedTuple):
    """A photo prepared for explanation networks."""

    name: str
    pixels: np.ndarray  # uint8 [H, W, 3], as seen by the classifier
    subject: Subject
    features: Array  # [D]


class FeatureMap(NamedTuple):
    """The heatmap of one x-feature on one photo."""

    activation: float
    status: Status | None  # None if the x-feature is inactive, in which case nothing was run
    saliency: np.ndarray | None  # [H, W]; None unless the status is OK


class PhotoReading(NamedTuple):
    """A photo explained by one class's network."""

    name: str  # class name
    logits: np.ndarray  # [C], the probe's logits
    predicted: float  # the network's logit for the class
    contributions: np.ndarray  # [n]
    significant: np.ndarray  # bool [n]
    maps: dict[int, FeatureMap]  # maps of the significant x-features, largest contribution first


class LoadedNetworks(NamedTuple):
    """Explanation networks loaded from a folder; all photos, classes and x-features share one program."""

    classifier: zoo.ZooClassifier
    probe: xnn.Probe
    names: tuple[str, ...]  # names of all the probe's classes
    explained: dict[str, ExplanationNetwork]
    photos: Path  # the folder of photos they were fitted to
    record: dict[str, Any]

    @property
    def white_level(self) -> float | None:
        """The white level with which those photos were read."""
        return self.record.get("white_level")

    def entry(self, name: str) -> dict[str, Any]:
        """Return the record of an explained class."""
        return next(entry for entry in self.record["classes"] if entry["class"] == name)

    def means(self, name: str) -> np.ndarray:
        """Return the mean contribution of each x-feature to each class's training photos, [n, C]."""
        return np.array([one["mean_contributions"] for one in self.entry(name)["x_features"]], np.float64)

    def prepare(self, name: str, rgb: np.ndarray) -> PreparedPhoto:
        """Prepare a photo: crop and normalize it, choose its baseline and key, and compute its features."""
        pixels = self.classifier.crop_and_resize(rgb)
        trunk = next(iter(self.explained.values())).trunk
        return PreparedPhoto(name, pixels, *_prepare(_ProbedClassifier(trunk, self.probe), request(pixels)))

    def look(self, name: str, k: int, photo: PreparedPhoto) -> FeatureMap:
        """Explain x-feature k of a class's network on a photo with iGOS++."""
        network = self.explained[name]
        activation = float(network.srae.x_features(photo.features[None])[0, k])
        if activation <= 0:
            return FeatureMap(activation, None, None)
        explanation = _explain(network.feature_score(k, unit=activation), photo.subject, SIZE)
        status = Status(int(explanation.status))
        saliency = np.asarray(explanation.saliency(*photo.pixels.shape[:2])) if status is Status.OK else None
        return FeatureMap(activation, status, saliency)

    def read(self, photo: PreparedPhoto, name: str | None = None) -> PhotoReading:
        """Explain a photo with the network for class `name`.

        If `name` is None, choose the explained class with the highest logit.
        """
        logits = np.asarray(self.probe(photo.features[None])[0])
        if name is None:
            name = max(self.explained, key=lambda one: logits[self.names.index(one)])
        srae = self.explained[name].srae
        contributions = np.asarray(srae.contributions(photo.features[None])[0])
        significant = np.asarray(xnn.significant(jnp.asarray(contributions[None]))[0])
        predicted = float(srae(photo.features[None])[0, 0])
        ranked = [int(k) for k in np.argsort(-contributions) if significant[k]]
        maps = {k: self.look(name, k, photo) for k in ranked}
        return PhotoReading(name, logits, predicted, contributions, significant, maps)


class _ProbedClassifier(NamedTuple):
    """The trunk followed by the probe, usable as the classifier of a `Subject`."""

    trunk: xnn.Trunk
    probe: xnn.Probe

    def normalize(self, pixels: Array) -> Array:
        return self.trunk.classifier.normalize(pixels)

    def __call__(self, images: Array) -> Array:
        return self.probe(self.trunk(images))


@jax.jit
def _prepare(model: _ProbedClassifier, asked: Request) -> tuple[Subject, Array]:
    subject = make_subject(model, jnp.uint32(0), asked, baseline="blur")
    return subject, model.trunk(subject.image[None])[0]


@partial(jax.jit, static_argnames="size")
def _explain(score: xnn.FeatureScore, subject: Subject, size: int) -> Explanation:
    key = method_key(subject.key, "igos++")
    return masks.igos_pp(score, subject.image, subject.baseline, key=key, size=size)


# ---------------------------------------------------------------------------------------------------------
# Folders of networks


class FitSource(NamedTuple):
    """Where the features used in a fit came from."""

    folder: Path  # folder of photos
    model: str
    weights: Path | None
    digest: str  # digest of the weights
    white_level: float | None = None  # with which the photos were read; see `jaxplain.load_image`


def save_networks(
    folder: Path, settings: FitSettings, source: FitSource, data: FeatureDataset, fitted: FittedNetworks
) -> None:
    """Write a fit to a folder, atomically.

    The files are xnn.json (the record), probe.safetensors, and one networks/INDEX.safetensors per explained
    class.

    Raises:
      OutputError: the folder cannot be written, or exists and is not an earlier result.
    """
    record = {
        "jaxplain": jaxplain.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "method": "xnn",
        "model": source.model,
        "weights": None if source.weights is None else str(source.weights.resolve()),
        "weights_digest": source.digest,
        "layer": settings.layer,
        "photos": str(source.folder.resolve()),
        **({} if source.white_level is None else {"white_level": source.white_level}),
        "counts": {"train": int((~data.held).sum()), "held_out": int(data.held.sum())},
        "names": list(data.names),
        "seed": settings.seed,
        "holdout": settings.holdout,
        "options": plain(settings.options),
        "probe_accuracy": number(fitted.accuracy),
        "classes": [_class_record(fitted_class, source.folder, data) for fitted_class in fitted.classes],
    }
    with staged_folder(folder, marker=RECORD) as staging:
        (staging / NETWORKS).mkdir()
        for fitted_class in fitted.classes:
            xnn.save(
                staging / network_file(fitted_class.target),
                fitted_class.fit.srae,
                {"class": fitted_class.name},
            )
        xnn.save_probe(staging / PROBE, fitted.probe)
        (staging / RECORD).write_bytes(to_json(record))


def network_file(index: int) -> str:
    """Return the relative path of a class's network; a number, because names may contain any character."""
    return f"{NETWORKS}/{index:04d}.safetensors"


def _class_record(fitted_class: FittedClass, folder: Path, data: FeatureDataset) -> dict[str, Any]:
    def photo(row: int) -> dict[str, str]:
        path, label, sha256 = data.photos[row]
        return {"photo": str(path.relative_to(folder)), "class": label, "sha256": sha256}

    weights = fitted_class.fit.srae.weights[:, 0]
    return {
        "class": fitted_class.name,
        "index": fitted_class.target,
        "status": Status(int(fitted_class.fit.status)).name.lower(),
        "rounds": int(fitted_class.fit.rounds),
        "loss_weights": {name: number(value) for name, value in fitted_class.fit.weights._asdict().items()},
        "diagnosis": {name: number(value) for name, value in fitted_class.diagnosis._asdict().items()},
        "recall": numbers(fitted_class.recall),
        "precision": numbers(fitted_class.precision),
        "typical": [photo(row) for row in fitted_class.typical],
        "x_features": [
            {
                "weight": number(weights[k]),
                "mean_contributions": numbers(fitted_class.means[k]),
                "top": [photo(row) | {"activation": number(value)} for row, value in top],
            }
            for k, top in enumerate(fitted_class.top)
        ],
    }


def load_networks(folder: Path) -> LoadedNetworks:
    """Load explanation networks and the classifier that they belong to.

    Raises:
      CheckpointError: the folder is missing, damaged, or was made with other weights.
      WeightsError: the classifier's weights cannot be read.
    """
    record = _read_record(folder)
    try:
        names, layer = tuple(record["names"]), record["layer"]
        model, weights, digest = record["model"], record["weights"], record["weights_digest"]
        entries = [(entry["class"], entry["index"]) for entry in record["classes"]]
        photos = Path(record["photos"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / RECORD} is damaged: {error} is missing. {_REFIT}") from error
    classifier = zoo.load(model, weights=weights)
    if weights_digest(classifier) != digest:
        raise CheckpointError(
            f"{folder} was made with weights of {model} that differ from the current ones. Restore the old "
            "weights, or fit again with jaxplain xnn fit."
        )
    probe, trunk = xnn.load_probe(folder / PROBE), xnn.Trunk(classifier, layer)
    explained = {}
    for name, index in entries:
        path = folder / network_file(index)
        srae, about = xnn.load(path)
        if about.get("class") != name or srae.config.features != len(probe.kernel):
            raise CheckpointError(f"{path} is not the network for {name!r} listed in {RECORD}. {_REFIT}")
        explained[name] = ExplanationNetwork(trunk, probe, srae, index)
    return LoadedNetworks(classifier, probe, names, explained, photos, record)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{folder} contains no {RECORD}: name a folder written by jaxplain xnn fit, or run that first."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {_REFIT}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: it contains no record. {_REFIT}")
    return record
