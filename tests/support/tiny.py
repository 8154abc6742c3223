"""A classifier of 48 weights per class that compiles in seconds, photos for it, and shared programs."""

import jax
import numpy as np
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

from jaxplain.methods import METHODS
from jaxplain.runs.step import Engine
from jaxplain.zoo import InputSpec, ModelEntry, ZooClassifier, imagenet_labels
from jaxplain.zoo.layers import Linear, Slot
from support.image_files import png

SIDE, CELLS, CLASSES = 32, 4, 1000
LABELS = imagenet_labels()
QUICK = {"size": 4, "n_steps": 1, "iterations": 1}  # of iGOS++


class Tiny(ZooClassifier):
    """Logits linear in the mean colours of 4 x 4 cells. `calls` counts how often it was traced or run."""

    calls = 0

    def __init__(self, name, labels, *, rngs):
        self.name, self.labels = name, labels
        self.spec = InputSpec((SIDE, SIDE), mean=(127.5,) * 3, scale=(64.0,) * 3, crop=1.0)
        self.classify = Linear(CELLS * CELLS * 3, len(labels), rngs=rngs)

    def feature_maps(self, images):
        Tiny.calls += 1
        cell = SIDE // CELLS
        return images.reshape(len(images), CELLS, cell, CELLS, cell, 3).mean((2, 4))

    def pool(self, maps):
        return maps.reshape(len(maps), -1)

    def head(self, features):
        return self.classify(features)

    def slots(self):
        return [Slot(self.classify, "classify")]


ENTRY = ModelEntry(Tiny, "a toy", "a file of 48,000 numbers", "tiny_weights")


def weights():
    """Return the weights of a planted network: every class looks at its own random pattern."""
    pattern = np.random.default_rng(0).standard_normal((CLASSES, CELLS * CELLS * 3)).astype(np.float32)
    return {"classify.weight": pattern, "classify.bias": np.zeros(CLASSES, np.float32)}


def tiny_model(state=None):
    model = Tiny("tiny", LABELS, rngs=nnx.Rngs(0))
    model.load_state_dict(weights() if state is None else state)
    return model


def write_package(folder, state=None):
    """Make a package in `folder` that ships the weights, as those of the demo extra do."""
    models = folder / "tiny_weights" / "models"
    models.mkdir(parents=True, exist_ok=True)
    save_file(weights() if state is None else state, models / "tiny.pth")


def photo(seed=0, height=40, width=48):
    """Return random colored blocks: uint8 [height, width, 3]."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def write_photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(seed)).save(path)
    return path


def write_deep_photo(path, seed=0, white=4095):
    """Write the same photo with 16 bits per sample, of which `white` is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.rint(photo(seed) * (white / 255)), 16, 2))
    return path


_PROGRAMS = {}


def share_programs(monkeypatch):
    """Let all engines share their compiled programs: neither weights, target nor seed are part of those."""
    make = Engine.__init__

    def init(engine, classifier, **options):
        make(engine, classifier, **options)
        kind = type(classifier), classifier.spec, len(classifier.labels), engine.baseline, engine.batch_size
        engine._programs = _PROGRAMS.setdefault(kind, {})

    monkeypatch.setattr(Engine, "__init__", init)


def forget_programs(is_meant=lambda method: method not in METHODS and method != "sag"):
    """Forget the shared programs of some methods, by name; of functions of a test's own if none are given."""
    for programs in _PROGRAMS.values():
        for kind, *name in [key for key in programs if isinstance(key, tuple)]:
            if kind == "step" and is_meant(name[0].split()[0]):
                del programs[kind, *name]


def arrays(tree):
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(tree)]


def assert_bit_equal(tree, other):
    for one, two in zip(arrays(tree), arrays(other), strict=True):
        np.testing.assert_array_equal(one, two)
