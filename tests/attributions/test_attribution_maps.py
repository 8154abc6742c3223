"""Grad-CAM, RISE and occlusion against loops in NumPy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attributed import BASELINE, IMAGE, KEY, NET, SHAPE, SMOOTH, TARGET, close, value

import jaxplain as jx
from jaxplain import attributions

# ---------------------------------------------------------------------------------------------------------
# Grad-CAM


def maps_and_slopes(kind):
    """Feature maps [3, 4, 2] of the image and the gradient of the score with respect to them, in NumPy."""
    mix, first, second = (np.asarray(leaf, np.float64) for leaf in NET)
    cells = np.array(
        [[IMAGE[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((0, 1)) for c in range(4)] for r in range(3)]
    )
    maps = np.maximum(cells @ mix, 0)
    hidden = np.tanh(maps.ravel() @ first)
    powers = np.exp(hidden @ second)
    shares = powers / powers.sum()
    of_class = np.eye(4)[TARGET]
    at_logits = of_class if kind == "logit" else shares[TARGET] * (of_class - shares)
    return maps, (first @ ((second @ at_logits) * (1 - hidden**2))).reshape(maps.shape)


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_grad_cam_is_its_formula(kind):
    maps, slopes = maps_and_slopes(kind)
    expected = sum(slopes[..., k].mean() * maps[..., k] for k in range(2))
    found = attributions.grad_cam(jx.class_score(NET, TARGET), IMAGE, kind=kind)
    close(found.details.attribution, expected)
    close(found.importance, np.maximum(expected, 0))
    assert int(found.evaluations) == 1
    own = attributions.grad_cam(jx.class_score(NET, TARGET, kind), IMAGE, kind=None)
    np.testing.assert_array_equal(own.importance, found.importance)


def test_grad_cam_differentiates_the_logit_by_default():
    score = jx.class_score(NET, TARGET, "probability")
    found, wanted = (attributions.grad_cam(score, IMAGE, **options) for options in ({}, {"kind": "logit"}))
    np.testing.assert_array_equal(found.importance, wanted.importance)


def test_grad_cam_pp_is_its_formula():
    maps, slopes = maps_and_slopes("logit")
    weights = np.zeros(2)
    for k in range(2):
        for row, col in np.ndindex(3, 4):
            g = slopes[row, col, k]
            if g > 0:
                weights[k] += g**2 / (2 * g**2 + maps[..., k].sum() * g**3) * g
    found = attributions.grad_cam_pp(jx.class_score(NET, TARGET), IMAGE)
    close(found.details.attribution, maps @ weights)


class Plain:
    """Not a pytree: its weights are constants."""

    def __call__(self, images):
        return NET(images)

    def feature_maps(self, images):
        return NET.feature_maps(images)

    def pool(self, maps):
        return NET.pool(maps)

    def head(self, features):
        return NET.head(features)


class WithFunction(NamedTuple):
    """A pytree that also holds a function, like an Equinox module."""

    net: tuple
    act: object

    def __call__(self, images):
        return self.net(images)

    def feature_maps(self, images):
        return self.act(self.net.feature_maps(images))

    def pool(self, maps):
        return self.net.pool(maps)

    def head(self, features):
        return self.net.head(features)


@pytest.mark.parametrize("method", [attributions.grad_cam, attributions.excitation_backprop])
@pytest.mark.parametrize("model", [Plain(), WithFunction(NET, jax.nn.relu)], ids=["object", "function"])
def test_models_that_are_no_pytrees_of_arrays_keep_their_methods(method, model):
    found = method(jx.class_score(model, TARGET), IMAGE)
    close(found.importance, method(jx.class_score(NET, TARGET), IMAGE).importance)


def test_maps_of_another_shape_are_refused():
    class Flat(Plain):
        def feature_maps(self, images):
            return images.reshape(len(images), -1)

    with pytest.raises(
        ValueError, match=r"feature_maps must map \[1, H, W, C\] to \[1, h, w, d\], got shape"
    ):
        attributions.grad_cam(jx.class_score(Flat(), TARGET), IMAGE)


# ---------------------------------------------------------------------------------------------------------
# RISE


def cells_and_shifts(key, shape, grid, probability):
    cells_key, *shift_keys = jax.random.split(key, 3)
    sizes = [-(-side // cells) for side, cells in zip(shape, grid, strict=True)]
    shifts = [
        int(jax.random.randint(k, (), 0, size, jnp.int32)) for k, size in zip(shift_keys, sizes, strict=True)
    ]
    visible = jax.random.bernoulli(cells_key, jnp.float32(probability), grid)
    return visible.astype(jnp.float32), sizes, shifts


@pytest.mark.parametrize(
    "grid", [(2, 3), *(pytest.param(grid, marks=pytest.mark.slow) for grid in ((1, 1), (6, 8)))]
)
def test_rise_masks_are_upsampled_and_cropped(grid):
    masks = attributions.rise_masks(KEY, SHAPE[:2], n_samples=4, grid=grid, probability=0.4)
    for index, mask in enumerate(masks):
        cells, sizes, shifts = cells_and_shifts(jax.random.fold_in(KEY, index), SHAPE[:2], grid, 0.4)
        whole = [(count + 1) * size for count, size in zip(grid, sizes, strict=True)]
        large = jax.image.resize(cells, whole, "linear")
        close(mask, large[shifts[0] : shifts[0] + 6, shifts[1] : shifts[1] + 8])


@pytest.mark.slow
def test_rise_masks_keep_every_pixel_equally_often():
    masks = attributions.rise_masks(KEY, (12, 12), n_samples=3000, grid=3, probability=0.3)
    assert masks.min() == 0
    assert masks.max() == 1
    assert np.abs(masks.mean(0) - 0.3).max() < 0.04  # the standard error is at most 0.0084


@pytest.mark.parametrize("baseline", [None, pytest.param(BASELINE, marks=pytest.mark.slow)])
def test_rise_is_the_loop(baseline):
    settings = {"n_samples": 30, "grid": (2, 3), "probability": 0.4}
    found = attributions.rise(SMOOTH, IMAGE, baseline, key=KEY, batch_size=7, **settings)
    hidden = np.zeros(SHAPE) if baseline is None else baseline
    total = np.zeros(SHAPE[:2])
    for mask in np.asarray(attributions.rise_masks(KEY, SHAPE[:2], **settings), np.float64):
        shown = IMAGE * mask[..., None] + hidden * (1 - mask[..., None])
        total += value(shown) * mask
    close(found.importance, total / 30 / 0.4)
    assert int(found.evaluations) == 30


@pytest.mark.slow
def test_rise_finds_the_object():
    def score(images):
        return images[:, 2:5, 2:5].mean((1, 2, 3))

    image = jnp.ones((12, 12, 3))
    found = attributions.rise(score, image, key=KEY, n_samples=400, grid=4, batch_size=100).importance
    assert found[2:5, 2:5].min() > jnp.quantile(found, 0.8)


# ---------------------------------------------------------------------------------------------------------
# Occlusion


@pytest.mark.parametrize(
    ("window", "stride"),
    [
        ((3, 4), (1, 3)),
        (4, None),
        ((6, 8), (6, 8)),
        *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((3, 2), (1, 1), (5, 3))),
    ],
)
def test_occlusion_is_the_loop(window, stride):
    found = attributions.occlusion(SMOOTH, IMAGE, BASELINE, window=window, stride=stride, batch_size=3)
    height, width = (window, window) if isinstance(window, int) else window
    if stride is None:
        stride = (height // 2, width // 2)
    down, right = (stride, stride) if isinstance(stride, int) else stride
    drops = [[[] for _ in range(8)] for _ in range(6)]
    windows = 0
    row = -down
    while row + height < 6:
        row, col = row + down, -right
        while col + width < 8:
            col += right
            hidden = IMAGE.copy()
            hidden[row : row + height, col : col + width] = BASELINE[row : row + height, col : col + width]
            windows += 1
            for r in range(row, min(6, row + height)):
                for c in range(col, min(8, col + width)):
                    drops[r][c].append(value(IMAGE) - value(hidden))
    close(found.importance, [[np.mean(pixel) for pixel in line] for line in drops])
    assert int(found.evaluations) == windows + 1


@pytest.mark.parametrize(("sides", "window"), [((224, 224), 32), ((300, 70), 10), ((6, 8), 1)])
def test_the_default_window_is_a_seventh_of_the_shorter_side(sides, window):
    def importance(**options):
        def score(images):
            return images.sum((1, 2, 3))

        image = jax.ShapeDtypeStruct((*sides, 3), jnp.float32)
        return str(jax.make_jaxpr(lambda x: attributions.occlusion(score, x, x, **options).importance)(image))

    assert importance() == importance(window=window, stride=max(1, window // 2))
