"""Grad-CAM, RISE and occlusion against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from attributed import BASELINE, IMAGE, KEY, NET, SHAPE, SMOOTH, TARGET, close, value

import jaxplain as jx
from jaxplain import attributions

# -------------------------------------------------------------------------------------------- Grad-CAM


def enlarged(small):
    """Bilinear with aligned corners, one axis after the other."""
    for axis, size in enumerate(SHAPE[:2]):
        places = np.linspace(0, small.shape[axis] - 1, size)
        small = np.apply_along_axis(
            lambda line, places=places: np.interp(places, np.arange(len(line)), line), axis, small
        )
    return small


def maps_and_slopes(kind):
    """Maps [3, 4, 2] of the image and the gradient of its score in them, in NumPy."""
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
    found = attributions.grad_cam(NET, IMAGE, TARGET, kind=kind)
    close(found.attribution, expected)
    close(found.saliency, enlarged(np.maximum(expected, 0)))
    assert int(found.evaluations) == 1


def test_grad_cam_pp_is_its_formula():
    maps, slopes = maps_and_slopes("logit")
    weights = np.zeros(2)
    for k in range(2):
        for row, col in np.ndindex(3, 4):
            g = slopes[row, col, k]
            if g > 0:
                weights[k] += g**2 / (2 * g**2 + maps[..., k].sum() * g**3) * g
    expected = maps @ weights
    found = attributions.grad_cam_pp(NET, IMAGE, TARGET)
    close(found.attribution, expected)
    close(found.saliency, enlarged(expected))


@pytest.mark.parametrize("method", [attributions.grad_cam, attributions.grad_cam_pp])
def test_no_target_is_the_top_prediction(method):
    top = int(jx.top_class(NET, jnp.asarray(IMAGE)))
    np.testing.assert_array_equal(method(NET, IMAGE).attribution, method(NET, IMAGE, top).attribution)


def test_grad_cam_of_a_classifier_of_the_zoo():
    model = tiny.tiny_model()
    with jax.numpy_rank_promotion("allow"):
        image = model.preprocess(tiny.photo())
        maps = np.asarray(model.feature_maps(image[None])[0])
        found = attributions.grad_cam(model, image, 7)
    pattern = tiny.weights()["classify.weight"][7].reshape(maps.shape)
    close(found.attribution, maps @ pattern.mean((0, 1)), 1e-5)
    assert found.saliency.shape == image.shape[:2]
    with pytest.raises(ValueError, match=r"target 1000 is out of range: the classifier has classes 0\.\.999"):
        attributions.grad_cam(model, image, 1000)


# ------------------------------------------------------------------------------------------------ RISE


def cells_and_shifts(key, shape, grid, probability):
    cells_key, *shift_keys = jax.random.split(key, 3)
    sizes = [-(-side // cells) for side, cells in zip(shape, grid, strict=True)]
    shifts = [int(jax.random.randint(k, (), 0, size)) for k, size in zip(shift_keys, sizes, strict=True)]
    return jax.random.bernoulli(cells_key, probability, grid).astype(jnp.float32), sizes, shifts


@pytest.mark.parametrize("grid", [(2, 3), (1, 1), (6, 8)])
def test_rise_masks_are_enlarged_and_cropped(grid):
    masks = attributions.rise_masks(KEY, SHAPE[:2], n_masks=6, grid=grid, probability=0.4)
    for index, mask in enumerate(masks):
        cells, sizes, shifts = cells_and_shifts(jax.random.fold_in(KEY, index), SHAPE[:2], grid, 0.4)
        whole = [(count + 1) * size for count, size in zip(grid, sizes, strict=True)]
        large = jax.image.resize(cells, whole, "linear")
        close(mask, large[shifts[0] : shifts[0] + 6, shifts[1] : shifts[1] + 8])


def test_rise_masks_keep_every_pixel_equally_often():
    masks = attributions.rise_masks(KEY, (12, 12), n_masks=3000, grid=3, probability=0.3)
    assert masks.min() == 0
    assert masks.max() == 1
    assert np.abs(masks.mean(0) - 0.3).max() < 0.04  # standard error at most 0.0084


@pytest.mark.parametrize("baseline", [None, BASELINE])
def test_rise_is_the_loop(baseline):
    settings = {"n_masks": 30, "grid": (2, 3), "probability": 0.4}
    found = attributions.rise(SMOOTH, IMAGE, baseline, key=KEY, batch_size=7, **settings)
    hidden = np.zeros(SHAPE) if baseline is None else baseline
    total = np.zeros(SHAPE[:2])
    for mask in np.asarray(attributions.rise_masks(KEY, SHAPE[:2], **settings), np.float64):
        shown = IMAGE * mask[..., None] + hidden * (1 - mask[..., None])
        total += value(shown) * mask
    close(found.saliency, total / 30 / 0.4)
    np.testing.assert_array_equal(found.saliency, found.attribution)
    assert int(found.evaluations) == 30


def test_rise_finds_the_object():
    def score(images):
        return images[:, 2:5, 2:5].mean((1, 2, 3))

    found = attributions.rise(score, jnp.ones((12, 12, 3)), key=KEY, n_masks=400, grid=4, batch_size=100)
    inside = found.saliency[2:5, 2:5]
    assert inside.min() > jnp.quantile(found.saliency, 0.8)


# ------------------------------------------------------------------------------------------- occlusion


@pytest.mark.parametrize(
    ("window", "stride"),
    [(2, 2), (3, 2), ((3, 4), (1, 3)), (4, None), ((6, 8), (6, 8)), (1, 1), (5, 3)],
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
    close(found.saliency, [[np.mean(pixel) for pixel in line] for line in drops])
    assert int(found.evaluations) == windows + 1
