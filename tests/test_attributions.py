"""Attribution methods against loops in NumPy; one result for all; batches, transformations, bad input."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jaxplain as jx
from jaxplain import attributions, paths
from jaxplain.attributions import METHODS, Status

KEY = jax.random.key(3)
SHAPE = (6, 8, 3)  # not square


@pytest.fixture(autouse=True, scope="module")
def strict():
    """No axis grows unasked, and tiny programs compile without most optimisations."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_rank_promotion("raise"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


IMAGE, BASELINE = normal(0, *SHAPE), normal(1, *SHAPE)


class Net(NamedTuple):
    """Softmax over a network with one hidden layer, cut at maps [3, 4, 2] as Grad-CAM wants it."""

    mix: jax.Array  # [3, 2], channels of an image -> maps
    first: jax.Array  # [24, 5]
    second: jax.Array  # [5, 4]

    def feature_maps(self, images):
        rows, cols = images.shape[1] // 2, images.shape[2] // 2
        cells = images.reshape(len(images), rows, 2, cols, 2, 3).mean((2, 4))
        return jax.nn.relu(cells @ self.mix)

    def pool(self, maps):
        return maps.reshape(len(maps), -1)

    def head(self, features):
        return jnp.tanh(features @ self.first) @ self.second

    def __call__(self, images):
        return self.head(self.pool(self.feature_maps(images)))


NET = Net(*map(jnp.asarray, (normal(2, 3, 2), normal(3, 24, 5) / 2, normal(4, 5, 4))))
TARGET = 1


class Smooth(NamedTuple):
    """The probability of a class of a smooth network; its gradient is written out in `slope`."""

    first: np.ndarray  # [144, 5]
    second: np.ndarray  # [5, 4]

    def __call__(self, images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ self.first)
        return jax.nn.softmax(hidden @ self.second)[:, TARGET]


SMOOTH = Smooth(normal(5, 144, 5) / 12, normal(6, 5, 4))


def value(image):
    """One image's score in NumPy, float64."""
    hidden = np.tanh(np.asarray(image, np.float64).ravel() @ SMOOTH.first)
    powers = np.exp(hidden @ SMOOTH.second)
    return (powers / powers.sum())[TARGET]


def slope(image):
    """Its gradient [H, W, C], by hand."""
    hidden = np.tanh(np.asarray(image, np.float64).ravel() @ SMOOTH.first)
    powers = np.exp(hidden @ SMOOTH.second)
    shares = powers / powers.sum()
    at_logits = shares[TARGET] * (np.eye(4)[TARGET] - shares)
    at_hidden = (SMOOTH.second @ at_logits) * (1 - hidden**2)
    return (SMOOTH.first @ at_hidden).reshape(image.shape)


def close(found, expected, tolerance=2e-6):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerance)


# ---------------------------------------------------------------------------------------- gradients


def test_the_slope_is_that_of_the_value():
    """The oracle itself, by finite differences."""
    found = slope(IMAGE)
    for place in [(0, 0, 0), (5, 7, 2), (2, 3, 1)]:
        step = np.zeros(SHAPE)
        step[place] = 1e-5
        close((value(IMAGE + step) - value(IMAGE - step)) / 2e-5, found[place], 1e-8)


def test_gradient():
    found = attributions.gradient(SMOOTH, IMAGE)
    close(found.attribution, slope(IMAGE))
    close(found.saliency, np.abs(slope(IMAGE)).sum(-1))
    assert (int(found.status), int(found.evaluations)) == (Status.OK, 1)
    assert np.isnan(found.error)


def test_input_x_gradient():
    close(attributions.input_x_gradient(SMOOTH, IMAGE).attribution, IMAGE * slope(IMAGE))


@pytest.mark.parametrize("reduce", ["abs_sum", "abs_max", "sum"])
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients"])
def test_channels_become_one_number(method, reduce):
    inputs = (IMAGE, BASELINE) if method == "integrated_gradients" else (IMAGE,)
    found = METHODS[method](SMOOTH, *inputs, reduce=reduce)
    raw = np.asarray(found.attribution)
    by_hand = {"abs_sum": np.abs(raw).sum(-1), "abs_max": np.abs(raw).max(-1), "sum": raw.sum(-1)}
    close(found.saliency, by_hand[reduce])


NODES = {
    "riemann": lambda steps: [((s + 1) / steps, 1 / steps) for s in range(steps)],
    "midpoint": lambda steps: [((s + 0.5) / steps, 1 / steps) for s in range(steps)],
    "gauss_legendre": lambda steps: [
        ((node + 1) / 2, weight / 2)
        for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True)
    ],
}


@pytest.mark.parametrize("rule", paths.RULES)
def test_integrated_gradients_are_the_loop(rule):
    found = attributions.integrated_gradients(SMOOTH, IMAGE, BASELINE, n_steps=5, rule=rule, batch_size=2)
    mean = sum(
        weight * slope(BASELINE + node * (IMAGE.astype(np.float64) - BASELINE))
        for node, weight in NODES[rule](5)
    )
    expected = (IMAGE - BASELINE) * mean
    close(found.attribution, expected)
    rise = value(IMAGE) - value(BASELINE)
    close(found.error, abs(expected.sum() - rise) / abs(rise), 1e-5)
    assert int(found.evaluations) == 7


@pytest.mark.parametrize(("rule", "most"), [("gauss_legendre", 1e-4), ("midpoint", 0.01), ("riemann", 0.1)])
def test_integrated_gradients_are_complete(rule, most):
    for seed in (20, 21, 22):
        found = attributions.integrated_gradients(SMOOTH, normal(seed, *SHAPE), BASELINE, rule=rule)
        assert found.error < most
        rise = value(normal(seed, *SHAPE)) - value(BASELINE)
        assert abs(found.attribution.sum() - rise) <= most * abs(rise) + 1e-6


def test_kinks_on_the_path_need_more_steps():
    """The path crosses kinks of the ReLU unless it starts at zero: then all maps grow in proportion."""
    score = jx.class_score(NET, TARGET)
    zero = attributions.integrated_gradients(score, IMAGE, np.zeros(SHAPE, np.float32))
    assert zero.error < 1e-4
    few, many = (
        attributions.integrated_gradients(score, IMAGE, BASELINE, n_steps=steps, batch_size=64).error
        for steps in (64, 1024)
    )
    assert many < 1e-3 < few


def test_no_difference_has_no_relative_error():
    found = attributions.integrated_gradients(SMOOTH, IMAGE, IMAGE)
    assert not np.any(found.attribution)
    assert not np.isfinite(found.error)
    assert int(found.status) == Status.OK


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_smooth_grad_and_var_grad_are_the_loop(batch_size):
    noise = 0.3 * normal(7, 7, *SHAPE)
    slopes = np.stack([slope(IMAGE + one) for one in noise])
    mean = attributions.smooth_grad(SMOOTH, IMAGE, noise=noise, batch_size=batch_size)
    close(mean.attribution, slopes.mean(0))
    close(mean.saliency, np.abs(slopes.mean(0)).sum(-1))
    variance = attributions.var_grad(SMOOTH, IMAGE, noise=noise, batch_size=batch_size)
    close(variance.attribution, slopes.var(0), 1e-8)
    assert int(mean.evaluations) == int(variance.evaluations) == 7


@pytest.mark.parametrize("method", ["smooth_grad", "var_grad"])
def test_the_noise_that_a_key_draws(method):
    std = 0.2 * (IMAGE.max() - IMAGE.min())
    keys = [jax.random.fold_in(KEY, sample) for sample in range(5)]
    noise = jnp.stack([std * jax.random.normal(key, SHAPE) for key in keys])
    found = METHODS[method](SMOOTH, IMAGE, key=KEY, n_samples=5, noise_level=0.2, batch_size=2)
    given = METHODS[method](SMOOTH, IMAGE, noise=noise)
    close(found.attribution, given.attribution)
    other = METHODS[method](SMOOTH, IMAGE, key=jax.random.key(4), n_samples=5, noise_level=0.2)
    assert not np.allclose(found.attribution, other.attribution)


def test_without_noise_all_samples_are_the_gradient():
    found = attributions.smooth_grad(SMOOTH, IMAGE, key=KEY, n_samples=4, noise_level=0.0)
    close(found.attribution, slope(IMAGE))
    assert np.max(attributions.var_grad(SMOOTH, IMAGE, key=KEY, n_samples=4, noise_level=0).saliency) < 1e-12


def test_a_small_variance_beside_a_large_mean():
    def score(images):  # gradient 3000 + x
        return (3000 * images + images**2 / 2).sum((1, 2, 3))

    noise = 0.5 * normal(8, 40, *SHAPE)
    found = attributions.var_grad(score, IMAGE, noise=noise, batch_size=7)
    np.testing.assert_allclose(found.attribution, (IMAGE + noise).var(0), rtol=0.01)


# ----------------------------------------------------------------------------------------- Grad-CAM


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


# --------------------------------------------------------------------------------------------- RISE


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


# ---------------------------------------------------------------------------------------- occlusion


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


# -------------------------------------------------------------------------------------- all of them


def explain(name, image, baseline=BASELINE, key=KEY, target=TARGET, net=NET, batch_size=4):
    """Any method with a few samples, on the network of which a class is explained."""
    score = jx.class_score(net, target)
    several = {"batch_size": batch_size}
    call = {
        "gradient": lambda: attributions.gradient(score, image),
        "input_x_gradient": lambda: attributions.input_x_gradient(score, image),
        "integrated_gradients": lambda: attributions.integrated_gradients(
            score, image, baseline, n_steps=6, **several
        ),
        "smooth_grad": lambda: attributions.smooth_grad(score, image, key=key, n_samples=7, **several),
        "var_grad": lambda: attributions.var_grad(score, image, key=key, n_samples=7, **several),
        "grad_cam": lambda: attributions.grad_cam(net, image, target),
        "grad_cam_pp": lambda: attributions.grad_cam_pp(net, image, target),
        "excitation_backprop": lambda: attributions.excitation_backprop(net, image, target),
        "rise": lambda: attributions.rise(score, image, baseline, key=key, n_masks=9, grid=2, **several),
        "occlusion": lambda: attributions.occlusion(score, image, baseline, window=3, **several),
    }
    return call[name]()


RAW = {
    "rise": (6, 8),
    "occlusion": (6, 8),
    "grad_cam": (3, 4),
    "grad_cam_pp": (3, 4),
    "excitation_backprop": (3, 4),
}
MANY = ["integrated_gradients", "smooth_grad", "var_grad", "rise", "occlusion"]


@pytest.mark.parametrize("name", METHODS)
def test_every_result_looks_alike(name):
    found = explain(name, IMAGE)
    assert found.attribution.shape == RAW.get(name, SHAPE)
    assert found.saliency.shape == (6, 8)
    assert found.saliency.dtype == found.attribution.dtype == found.error.dtype == jnp.float32
    assert found.status.dtype == found.evaluations.dtype == jnp.int32
    assert found.status.shape == found.evaluations.shape == found.error.shape == ()
    assert Status(int(found.status)) is Status.OK
    assert np.isfinite(found.error) == (name == "integrated_gradients")


@pytest.mark.parametrize("name", MANY)
def test_batch_size_changes_nothing(name):
    one = explain(name, IMAGE, batch_size=1)
    for batch_size in (3, 100):
        other = explain(name, IMAGE, batch_size=batch_size)
        close(one.attribution, other.attribution)
        assert int(one.evaluations) == int(other.evaluations)


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_a_batch_are_the_single_calls(name):
    """Images, baselines, keys and targets all differ by row."""
    images, baselines = normal(10, 3, *SHAPE), normal(11, 3, *SHAPE)
    keys, targets = jax.random.split(KEY, 3), jnp.array([2, 0, 3])
    rows = (images, baselines, keys, targets)
    together = jax.jit(jax.vmap(lambda *row: explain(name, *row)))(*map(jnp.asarray, rows))
    for index in range(3):
        alone = explain(name, *(row[index] for row in rows))
        jax.tree.map(lambda one, row, index=index: close(row[index], one), alone, together)


@pytest.mark.parametrize("name", METHODS)
def test_the_target_may_be_traced(name):
    traces = []

    @jax.jit
    def saliency(target):
        traces.append(target)
        return explain(name, jnp.asarray(IMAGE), target=target).saliency

    for target in (0, 3):
        close(saliency(target), explain(name, IMAGE, target=target).saliency)
    assert len(traces) == 1


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", MANY)
def test_the_model_sees_no_more_images_than_a_batch(name, mapped):
    batches = []

    class Watched(Net):
        def __call__(self, images):
            batches.append(len(images))
            return super().__call__(images)

    def run(image):
        return explain(name, image, net=Watched(*NET), batch_size=4).saliency

    if mapped:
        jax.vmap(run)(jnp.stack([IMAGE] * 3))
    else:
        run(IMAGE)
    assert batches
    assert max(batches) <= 4


@pytest.mark.parametrize("name", METHODS)
def test_a_score_that_is_not_a_number_is_a_status(name):
    """Only in the row where it happens."""
    broken = jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.full_like(leaf, jnp.nan)]), NET)
    found = jax.vmap(lambda net: explain(name, jnp.asarray(IMAGE), net=net))(broken)
    assert found.status.tolist() == [Status.OK, Status.NOT_FINITE]
    assert "NaN" in Status(int(found.status[1])).message
    assert Status.OK.message == "ok"
    traced = jax.jit(lambda target: explain(name, IMAGE, target=target))(4)  # no such class
    assert int(traced.status) == Status.NOT_FINITE


def test_an_error_in_one_image_of_many_is_seen():
    def score(images):
        return jnp.where(images[:, 0, 0, 0] > 10, jnp.nan, images.sum((1, 2, 3)))

    marked = BASELINE.copy()
    marked[0, 0, 0] = 11
    found = attributions.occlusion(score, IMAGE, marked, window=2)
    assert int(found.status) == Status.NOT_FINITE


# ---------------------------------------------------------------------------------------- bad input

FLOATS = jnp.asarray(IMAGE)
GRADIENT, IG = attributions.gradient, attributions.integrated_gradients
SMOOTHED, RISE, OCCLUSION = attributions.smooth_grad, attributions.rise, attributions.occlusion
BAD = {
    "batch": (lambda: GRADIENT(SMOOTH, FLOATS[None]), ValueError, "one image at a time"),
    "8 bits": (lambda: GRADIENT(SMOOTH, FLOATS.astype(jnp.uint8)), TypeError, "8-bit photos"),
    "NaN": (lambda: GRADIENT(SMOOTH, FLOATS.at[0, 0].set(jnp.nan)), ValueError, "holds 3 NaN"),
    "reduce": (lambda: GRADIENT(SMOOTH, FLOATS, reduce="max"), ValueError, "did you mean 'abs_max'"),
    "score": (lambda: GRADIENT(NET, FLOATS), ValueError, "class_score"),
    "no score": (lambda: GRADIENT(3, FLOATS), TypeError, "callable"),
    "baseline": (lambda: IG(SMOOTH, FLOATS, FLOATS[:3]), ValueError, r"baseline \(3, 8, 3\) and image"),
    "no baseline": (lambda: IG(SMOOTH, FLOATS, None), TypeError, "baseline must be an array"),
    "rule": (lambda: IG(SMOOTH, FLOATS, FLOATS, rule="simpson"), ValueError, "unknown rule"),
    "steps": (lambda: IG(SMOOTH, FLOATS, FLOATS, n_steps=0), ValueError, "n_steps must be at least 1"),
    "batch size": (lambda: IG(SMOOTH, FLOATS, FLOATS, batch_size=0), ValueError, "batch_size must be"),
    "no key": (lambda: SMOOTHED(SMOOTH, FLOATS), TypeError, "smooth_grad is random: pass key="),
    "seed": (lambda: RISE(SMOOTH, FLOATS, key=3), TypeError, "rise is random: pass key="),
    "keys": (lambda: RISE(SMOOTH, FLOATS, key=jax.random.split(KEY)), ValueError, "one key"),
    "key and noise": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise=FLOATS[None]),
        ValueError,
        "not both",
    ),
    "noise": (lambda: SMOOTHED(SMOOTH, FLOATS, noise=FLOATS), ValueError, r"noise must be \[S, 6, 8, 3\]"),
    "level": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise_level=-0.1),
        ValueError,
        "noise_level must be at least 0, got -0.1",
    ),
    "levels": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise_level=jnp.ones(2)),
        ValueError,
        "jax.vmap for a sweep",
    ),
    "samples": (
        lambda: attributions.var_grad(SMOOTH, FLOATS, key=KEY, n_samples=2.5),
        TypeError,
        "n_samples must be a whole number",
    ),
    "probability": (
        lambda: RISE(SMOOTH, FLOATS, key=KEY, probability=1.5),
        ValueError,
        r"probability must be in 0\.\.1, got 1.5",
    ),
    "never": (lambda: RISE(SMOOTH, FLOATS, key=KEY, probability=0), ValueError, "must be above 0"),
    "masks": (lambda: RISE(SMOOTH, FLOATS, key=KEY, n_masks=0), ValueError, "n_masks must be at least 1"),
    "grid": (lambda: RISE(SMOOTH, FLOATS, key=KEY, grid=(2, 2, 2)), ValueError, r"\(rows, columns\)"),
    "window": (lambda: OCCLUSION(SMOOTH, FLOATS, FLOATS, window=7), ValueError, "larger than the image"),
    "stride": (
        lambda: OCCLUSION(SMOOTH, FLOATS, FLOATS, window=2, stride=3),
        ValueError,
        "pixels would be left out",
    ),
    "no maps": (lambda: attributions.grad_cam(SMOOTH, FLOATS), TypeError, "has no feature_maps and no pool"),
    "target": (lambda: attributions.grad_cam(NET, FLOATS, 1.0), TypeError, "one class index"),
    "kind": (lambda: attributions.grad_cam(NET, FLOATS, 1, kind="logits"), ValueError, "'logit'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


def test_shapes_are_refused_while_tracing():
    with pytest.raises(ValueError, match="must have the same shape"):
        jax.eval_shape(lambda image: IG(SMOOTH, image, image[:3]), FLOATS)
