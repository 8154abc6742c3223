"""Sanity checks: randomized classifiers, maps that change with them, and an edge detector that does not."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain as jx
from jaxplain import metrics
from jaxplain.explanation import Status
from jaxplain.methods import METHODS
from jaxplain.zoo.layers import Conv

KEY = jax.random.key(0)


class Small(nnx.Module):
    """Two convolutions and a linear layer; its attributes are not in the order of their use."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.stem = Conv(3, 8, 3, stride=2, padding="same", rngs=rngs)
        self.body = Conv(8, 8, 3, stride=2, padding="same", rngs=rngs)
        self.above = nnx.Linear(8, 5, rngs=rngs)
        self.unused = nnx.Param(jnp.ones(3))

    def feature_maps(self, images):
        return jax.nn.relu(self.body(jax.nn.relu(self.stem(images))))

    def pool(self, maps):
        return maps.mean((1, 2))

    def head(self, features):
        return features @ self.above.kernel[...] + self.above.bias[...][None]

    def __call__(self, images):
        return self.head(self.pool(self.feature_maps(images)))


def picture(seed, side=24):
    """Blurred noise, as unlike a photo's edges as can be made without one."""
    noise = jax.random.normal(jax.random.key(seed), (side, side, 3), jnp.float32)
    return jx.blur_baseline(noise, kernel=5, sigma=1.5) * 4


IMAGE = picture(0)
MODEL = Small(0)
SCORE = jx.class_score(MODEL, 1, "logit")
LAYERS = ("above", "body", "stem")
top_class = jax.jit(jx.top_class)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(tree)]


# ------------------------------------------------------------------------------------------- layers


def test_layers_come_in_the_order_of_their_use_last_first():
    assert metrics.layer_names(MODEL, IMAGE) == LAYERS
    with pytest.raises(ValueError, match="no parameters to randomize"):
        metrics.layer_names(lambda images: images.mean((1, 2)), IMAGE)
    with pytest.raises(TypeError, match="classifier must be a function"):
        metrics.layer_names(3, IMAGE)


class Equinox(eqx.Module):
    """A module with leaves that are no arrays, which a class score wraps."""

    stem: eqx.nn.Linear
    last: eqx.nn.Linear
    between: object

    def __call__(self, images):
        return self.last(self.between(self.stem(images[0].mean((0, 1)))))[None]


def test_a_wrapped_model_keeps_the_names_of_its_layers():
    stem, last = (eqx.nn.Linear(3, 3, key=jax.random.key(seed)) for seed in (0, 1))
    model = Equinox(stem, last, jax.nn.relu)
    assert metrics.layer_names(model, IMAGE) == ("last", "stem")
    assert metrics.layer_names(jx.class_score(model, 0).classifier, IMAGE) == ("last", "stem")


def test_a_cascade_randomizes_one_more_layer_each_time():
    before = {name: leaves(getattr(MODEL, name)) for name in (*LAYERS, "unused")}
    for mode, expected in (
        ("cascading", [{"above"}, {"above", "body"}, {"above", "body", "stem"}]),
        ("independent", [{"above"}, {"body"}, {"stem"}]),
    ):
        copies = list(metrics.randomize(MODEL, IMAGE, key=KEY, mode=mode))
        assert tuple(copy.layer for copy in copies) == LAYERS
        for copy, randomized in zip(copies, expected, strict=True):
            changed = {
                name
                for name, known in before.items()
                if not np.array_equal(leaves(getattr(copy.classifier, name))[-1], known[-1])
            }
            assert changed == randomized
    for name, known in before.items():
        for one, other in zip(leaves(getattr(MODEL, name)), known, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_permutation_keeps_the_values_and_a_draw_their_moments():
    [copy] = metrics.randomize(MODEL, IMAGE, key=KEY, layers=["stem"], mode="independent")
    one, other = leaves(copy.classifier.stem)[-1], leaves(MODEL.stem)[-1]
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(np.sort(one.ravel()), np.sort(other.ravel()))
    [drawn] = metrics.randomize(
        MODEL, IMAGE, key=KEY, layers=["body"], mode="independent", replacement="normal"
    )
    assert leaves(drawn.classifier.body)[-1].std() == pytest.approx(leaves(MODEL.body)[-1].std(), rel=0.2)


def test_the_key_decides():
    copies = [
        leaves(copy.classifier)
        for key in (KEY, KEY, jax.random.key(1))
        for copy in metrics.randomize(MODEL, IMAGE, key=key, layers=1)
    ]
    assert [all(map(np.array_equal, copies[0], other)) for other in copies[1:]] == [True, False]


# ------------------------------------------------------------------------------------------- parameters


def edges(score, image, baseline):
    """Magnitude of the image's own differences: nothing of the classifier."""
    down, across = (jnp.abs(jnp.diff(image, axis=axis)).sum(-1) for axis in (0, 1))
    return down[:, 1:] + across[1:]


def randomized(explain, seed):
    """The same static arguments in every test, so that a method is compiled once."""
    score, image = jx.class_score(Small(seed), 1, "logit"), picture(seed)
    baseline = jx.blur_baseline(image, kernel=23)
    return metrics.parameter_randomization(score, image, baseline, explain, key=jax.random.key(seed))


def last_rank(explain, seed):
    return abs(float(randomized(explain, seed).rank[-1]))


def test_an_edge_detector_fails():
    for seed in range(3):
        assert last_rank(edges, seed) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["gradient", "grad-cam"])
def test_methods_that_use_the_classifier_pass(name):
    """On average over networks: a map of few cells may resemble another by chance."""
    explain = METHODS[name].function
    found = np.array([last_rank(explain, seed) for seed in range(6)])
    assert np.nanmean(found) < 0.7
    assert np.isfinite(found).sum() >= 3  # a randomized network may leave nothing to explain


@pytest.mark.slow
def test_igos_pp_passes():
    """With the logit of the class that rises most above the baseline."""
    explain = partial(jx.igos_pp, size=6, iterations=6, l1=0.001, l2=0.001)
    found = []
    for seed in range(6):
        model, image = Small(seed), picture(seed)
        baseline = jx.blur_baseline(image, kernel=23)
        rises = jnp.subtract(*model(jnp.stack([image, baseline])))
        score = jx.class_score(model, int(jnp.argmax(rises)), "logit")
        key = jax.random.key(seed)
        checked = metrics.parameter_randomization(score, image, baseline, explain, key=key)
        found.append(abs(float(checked.rank[-1])))
    assert np.nanmean(found) < 0.7
    assert np.isfinite(found).sum() >= 4  # a randomized network may leave nothing to explain


def test_rows_are_those_of_a_loop():
    gradient = METHODS["gradient"].function
    found = randomized(gradient, 0)
    assert found.layers == LAYERS
    original = gradient(SCORE, IMAGE, None).importance
    np.testing.assert_allclose(found.original.importance, original, rtol=1e-4, atol=1e-7)
    for_parameters, _ = jax.random.split(KEY)
    for row, copy in enumerate(metrics.randomize(MODEL, IMAGE, key=for_parameters)):
        other = gradient(jx.class_score(copy.classifier, 1, "logit"), IMAGE, None).importance
        np.testing.assert_allclose(found.randomized.importance[row], other, rtol=1e-3, atol=1e-6)
        expected = metrics.compare_maps(original, other, (24, 24))
        for one, name in zip(expected, expected._fields, strict=True):
            assert float(getattr(found, name)[row]) == pytest.approx(float(one), abs=2e-3)


def test_a_bad_map_is_nan_in_its_row_and_has_a_status():
    """A score that is no class score is randomized itself; one number has one permutation."""

    def root(score, image, baseline):  # NaN below 0
        return jnp.sqrt(score.args[0]) * jnp.abs(image.sum(-1))

    def check(bias):
        score = jax.tree_util.Partial(bias_times_mean, jnp.array(bias))
        return metrics.parameter_randomization(score, IMAGE, None, root, key=KEY)

    good, bad = check(1.0), check(-1.0)
    assert good.layers == ("0",)
    assert float(good.rank[0]) == pytest.approx(1)
    assert Status(int(bad.original.status)) == Status.NOT_FINITE
    assert np.isnan(bad.rank[0])


def bias_times_mean(bias, images):
    return images.mean((1, 2, 3)) * bias


# ------------------------------------------------------------------------------------------- targets


def test_maps_of_two_classes():
    slope = METHODS["gradient"].function
    same = metrics.target_randomization(SCORE, IMAGE, None, edges, other=2)
    assert float(same.rank) == pytest.approx(1, abs=1e-5)
    assert float(same.ssim) == pytest.approx(1, abs=1e-4)
    assert float(metrics.target_randomization(SCORE, IMAGE, None, slope, other=0).rank) < 0.95
    with pytest.raises(ValueError, match="must differ, got 1 twice"):
        metrics.target_randomization(SCORE, IMAGE, None, slope, other=1)
    with pytest.raises(TypeError, match=r"target_randomization requires a class score.*got function"):
        metrics.target_randomization(lambda images: images.sum((1, 2, 3)), IMAGE, None, slope, other=1)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown layer 'stm': did you mean 'stem'"):
        metrics.randomize(MODEL, IMAGE, key=KEY, layers=["stm"])
    with pytest.raises(ValueError, match="unknown mode"):
        metrics.randomize(MODEL, IMAGE, key=KEY, mode="cascade")
    with pytest.raises(TypeError, match="explain must be a function"):
        metrics.parameter_randomization(SCORE, IMAGE, None, 3, key=KEY)
    with pytest.raises(ValueError, match=r"map that explain returns must have shape \[h, w\]"):
        metrics.parameter_randomization(SCORE, IMAGE, None, lambda score, x, y: x, key=KEY, layers=1)


# -------------------------------------------------------------------------------- adversarial photos


def test_the_attack_stays_near_and_fools():
    right = int(top_class(MODEL, IMAGE))
    wrong = (right + 1) % 5
    found = metrics.adversarial_photo(MODEL, IMAGE, wrong, epsilon=0.5)
    assert bool(found.fooled)
    assert int(top_class(MODEL, found.image)) == wrong
    assert float(found.probability) > 0.2
    assert float(jnp.abs(found.image - IMAGE).max()) <= 0.5 + 1e-5
    assert not bool(metrics.adversarial_photo(MODEL, IMAGE, wrong, epsilon=1e-6).fooled)


@pytest.mark.parametrize("own_baseline", [True, False])
def test_the_check_is_the_curves_of_both_photos(own_baseline):
    def darkness(score, image, baseline):
        return (baseline - image).sum(-1)

    right = int(top_class(MODEL, IMAGE))
    wrong = (right + 1) % 5
    score, baseline = jx.class_score(MODEL, right), 0 * IMAGE if own_baseline else None
    found = metrics.adversarial_check(score, IMAGE, baseline, darkness, wrong, epsilon=0.5, n_steps=8)
    for image, target, curves, rise in (
        (IMAGE, right, found.clean, found.clean_rise),
        (found.adversarial.image, wrong, found.attacked, found.attacked_rise),
    ):
        score = jx.class_score(MODEL, target)
        hidden = baseline if own_baseline else jx.blur_baseline(image)
        direct = jx.insertion_deletion(score, image, hidden, darkness(score, image, hidden), n_steps=8)
        np.testing.assert_allclose(curves.insertion, direct.insertion, rtol=1e-4)
        assert float(rise) == float(metrics.adversarial_rise(direct.fraction, direct.insertion))
