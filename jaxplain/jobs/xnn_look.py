"""Where an x-feature looks on a photo: iGOS++ on its score, as on that of a class."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from jaxplain import masks, render
from jaxplain.jobs.photos import photo_key
from jaxplain.jobs.xnn_files import Networks
from jaxplain.perturb import blur_baseline
from jaxplain.xnn import ExplanationNetwork, FeatureScore

SIZE = 14  # of the masks: x-features are parts, and coarser masks are smoother
_ALPHA = 0.5
_NO_MAP = {  # what a caption has room for
    masks.Status.NOT_FINITE: "not finite",
    masks.Status.NOT_ABOVE_BASELINE: "on a blur too",
    masks.Status.NOT_MOVED: "no mask lowers it",
}


class Program(NamedTuple):
    """What is compiled once for all photos, classes and x-features."""

    networks: Networks
    heatmap: Callable[..., masks.Heatmap]
    features: Callable[[Array], Array]  # image [H, W, 3] -> [D]


class View(NamedTuple):
    """A photo as the networks see it."""

    name: str
    seen: np.ndarray  # uint8 [H, W, 3]
    image: Array  # [H, W, 3], model space
    features: Array  # [D]


class Seen(NamedTuple):
    """Where an x-feature looks on a photo."""

    picture: np.ndarray  # uint8 [H, W, 3], overlay; the photo where there is nothing to show
    saliency: np.ndarray | None  # [H, W], None where the status is not OK
    activation: float
    status: masks.Status | None  # None where it is inactive and nothing was tried

    @property
    def caption(self) -> str:
        """How active it is, or why there is no heatmap."""
        if self.status is None:
            return "not active"
        why = _NO_MAP.get(self.status)
        return f"{self.activation:.2f}" if why is None else f"{self.activation:.2f}, {why}"


def prepare(networks: Networks) -> Program:
    """Compile for the networks of a folder."""
    trunk = next(iter(networks.explained.values())).trunk
    features = jax.jit(lambda trunk, image: trunk(image[None])[0])
    heatmap = jax.jit(
        lambda score, image, background, key: masks.igos_pp(score, image, background, key=key, size=SIZE)
    )
    return Program(networks, heatmap, partial(features, trunk))


def view(program: Program, name: str, rgb: np.ndarray) -> View:
    """Read a photo for the networks."""
    classifier = program.networks.classifier
    seen = classifier.crop_and_resize(rgb)
    image = classifier.normalize(seen)
    return View(name, seen, image, program.features(image))


def look(program: Program, network: ExplanationNetwork, photo: View, k: int) -> Seen:
    """The heatmap of x-feature k on a photo."""
    activation = float(network.srae.x_features(photo.features[None])[0, k])
    if activation <= 0:
        return Seen(photo.seen, None, activation, None)
    # One structure for all x-features and classes, hence one compilation.
    score: FeatureScore = network.feature_score(k, unit=activation)
    found = program.heatmap(score, photo.image, blur_baseline(photo.image), photo_key(0, photo.seen))
    status = masks.Status(int(found.status))
    if status is not masks.Status.OK:
        return Seen(photo.seen, None, activation, status)
    saliency = np.asarray(found.saliency)
    return Seen(render.overlay(photo.seen, saliency, _ALPHA), saliency, activation, status)
