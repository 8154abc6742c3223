"""Explanation networks for folders of photos, one sub-folder a class: probe, SRAEs, and their figures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import xnn
from jaxplain.checks import check_choice, check_positive_int
from jaxplain.jobs.features import LabelledPhoto
from jaxplain.jobs.photos import check_seed

STEPS = 6000  # of the descent, at least
TOP, TYPICAL = 6, 3  # photos kept for each x-feature, and for each class


@dataclass(frozen=True)
class XnnJob:
    """How to fit.

    Raises:
      ValueError: a number that cannot be.
    """

    explained: tuple[str, ...]  # names of the classes that get a network
    layer: xnn.Layer = "penultimate"
    seed: int = 0
    holdout: float = 0.25  # share of each class's photos that nothing is fitted to
    options: dict[str, Any] = field(default_factory=dict)  # of `xnn.fit`

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_choice(self.layer, get_args(xnn.Layer), "layer")
        if "epochs" in self.options:
            check_positive_int(self.options["epochs"], "epochs")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout must be between 0 and 1, got {self.holdout}.")
        if not self.explained or len(set(self.explained)) != len(self.explained):
            raise ValueError(f"name at least one class, each once; got {', '.join(self.explained)!r}.")


class Dataset(NamedTuple):
    """Photos, their features and which of them are held out."""

    photos: list[LabelledPhoto]
    features: np.ndarray  # float32 [N, D]
    names: tuple[str, ...]  # of all C classes
    labels: np.ndarray  # int [N]
    held: np.ndarray  # bool [N]


class Change(NamedTuple):
    """A measure with the classifier's own logit and with the network's in its place."""

    before: float
    after: float


class ClassFit(NamedTuple):
    """The network of one class and what it is worth on the photos held out."""

    name: str
    target: int  # index of the class
    found: xnn.FitResult
    diagnosis: xnn.Diagnosis
    recall: Change
    precision: Change
    means: np.ndarray  # [n, C], mean contribution of each x-feature on each class's training photos
    top: list[list[tuple[int, float]]]  # for each x-feature: training photos it is most active on
    typical: list[int]  # the class's own training photos of highest logit


class Fitted(NamedTuple):
    """What a job comes to."""

    probe: xnn.Probe
    accuracy: float  # of the probe, on the photos held out
    classes: list[ClassFit]


def dataset(photos: list[LabelledPhoto], features: np.ndarray, names: list[str], holdout: float) -> Dataset:
    """Split by the digests of the files, so that a photo stays on its side whatever else is in the folder.

    Raises:
      ValueError: a class without a photo that is left for training.
    """
    labels = np.array([names.index(photo.label) for photo in photos])
    held = np.zeros(len(photos), bool)
    for at, name in enumerate(names):
        rows = sorted(np.flatnonzero(labels == at), key=lambda row: photos[row].sha256)
        held[rows[: int(holdout * len(rows))]] = True
        if not (~held[rows]).any():
            raise ValueError(
                f"no photo of class {name!r} can be read; mend its photos, or take its sub-folder away."
            )
    return Dataset(photos, features, tuple(names), labels, held)


def fit_networks(
    job: XnnJob,
    data: Dataset,
    tell: Callable[[str], None] = lambda doing: None,
    done: Callable[[], None] = lambda: None,
) -> Fitted:
    """Fit the probe on all classes and one SRAE for each explained one.

    `tell` hears what is being done, `done` that it is.

    Raises:
      ValueError: a class that is not there, too few photos, or whatever `xnn.fit` refuses.
    """
    for name in job.explained:
        if name not in data.names:
            raise ValueError(f"there is no class {name!r}; the classes are {', '.join(data.names)}.")
    tell("linear probe")
    train = ~data.held
    features = jnp.asarray(data.features)
    probe = xnn.linear_probe(features[train], jnp.asarray(data.labels[train]), len(data.names))
    done()
    logits = probe(features)
    shown = data.held if data.held.any() else train
    right = np.asarray(logits).argmax(1)[shown] == data.labels[shown]
    fits = []
    for name in job.explained:
        tell(f"network of {name}")
        fits.append(_fit_class(job, data, features, logits, data.names.index(name)))
        done()
    return Fitted(probe, float(right.mean()), fits)


def schedule(photos: int, batch_size: int = 50) -> dict[str, int]:
    """Epochs of a fit to so many photos: the published 120, and more where those are few steps."""
    epochs = max(120, -(-STEPS // max(1, photos // batch_size)))
    return {"epochs": epochs, "decay_every": epochs // 3}


def _fit_class(job: XnnJob, data: Dataset, features: Array, logits: Array, index: int) -> ClassFit:
    train = ~data.held
    shown = data.held if data.held.any() else train
    key = jax.random.fold_in(jax.random.key(job.seed), index)
    output: Any = "relu" if np.min(data.features) >= 0 else "linear"
    options = {"output": output, **schedule(int(train.sum()))} | job.options
    found = jax.block_until_ready(xnn.fit(features[train], logits[train, index], key=key, **options))
    diagnosis = xnn.diagnose(
        found.srae, features[shown], logits[shown, index], every_logit=logits[shown], label=index
    )
    labels = jnp.asarray(data.labels[shown])
    replaced = xnn.replace_logit(logits[shown], index, found.srae(features[shown])[:, 0])
    (recall, precision), (new_recall, new_precision) = (
        xnn.recall_and_precision(one, labels, index) for one in (logits[shown], replaced)
    )
    means, top, typical = _reading(data, found.srae, features, np.asarray(logits[:, index]), index)
    return ClassFit(
        name=data.names[index],
        target=index,
        found=found,
        diagnosis=diagnosis,
        recall=Change(float(recall), float(new_recall)),
        precision=Change(float(precision), float(new_precision)),
        means=means,
        top=top,
        typical=typical,
    )


def _reading(
    data: Dataset, srae: xnn.SRAE, features: Array, logit: np.ndarray, index: int
) -> tuple[np.ndarray, list[list[tuple[int, float]]], list[int]]:
    """What the x-features say of the training photos: means, most active photos, typical photos."""
    rows = np.flatnonzero(~data.held)
    contributions = np.asarray(srae.contributions(features[rows]))
    active = np.asarray(srae.x_features(features[rows]))
    labels = data.labels[rows]
    means = np.stack([contributions[labels == at].mean(0) for at in range(len(data.names))], axis=1)
    top = [
        [(int(rows[row]), float(column[row])) for row in np.argsort(-column)[:TOP] if column[row] > 0]
        for column in active.T
    ]
    own = rows[labels == index]
    return means, top, own[np.argsort(-logit[own])[:TYPICAL]].tolist()
