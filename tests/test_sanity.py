"""Sanity checks: classifiers that forget, maps that notice, and an edge detector that does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Net
from flax import nnx

import jaxplain as jx
from jaxplain import attributions, metrics
from jaxplain.compare.methods import edges
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
        return self.above(features)

    def __call__(self, images):
        return self.head(self.pool(self.feature_maps(images)))


def picture(seed, side=24):
    """Blurred noise, as unlike a photo's edges as can be made without one."""
    noise = jax.random.normal(jax.random.key(seed), (side, side, 3))
    return jx.blur_baseline(noise, kernel=5, sigma=1.5) * 4


IMAGE = picture(0)
MODEL = Small(0)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(tree)]


# ------------------------------------------------------------------------------------- what is forgotten


def test_layers_come_in_the_order_of_their_use_last_first():
    assert metrics.layer_names(MODEL, IMAGE) == ("above", "body", "stem")


def test_a_cascade_takes_one_more_layer_each_time():
    before = {name: leaves(getattr(MODEL, name)) for name in ("above", "body", "stem", "unused")}
    for mode, expected in (
        ("cascading", [{"above"}, {"above", "body"}, {"above", "body", "stem"}]),
        ("independent", [{"above"}, {"body"}, {"stem"}]),
    ):
        copies = list(metrics.randomize(MODEL, IMAGE, key=KEY, mode=mode))
        assert [copy.layer for copy in copies] == ["above", "body", "stem"]
        for copy, forgotten in zip(copies, expected, strict=True):
            changed = {
                name
                for name, known in before.items()
                if not np.array_equal(leaves(getattr(copy.classifier, name))[-1], known[-1])
            }
            assert changed == forgotten
    for name, known in before.items():
        for one, other in zip(leaves(getattr(MODEL, name)), known, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_permutation_keeps_the_numbers_and_a_draw_their_moments():
    [copy] = metrics.randomize(MODEL, IMAGE, key=KEY, layers=["stem"], mode="independent")
    one, other = leaves(copy.classifier.stem)[-1], leaves(MODEL.stem)[-1]
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(np.sort(one.ravel()), np.sort(other.ravel()))
    [drawn] = metrics.randomize(
        MODEL, IMAGE, key=KEY, layers=["body"], mode="independent", replacement="normal"
    )
    one, other = leaves(drawn.classifier.body)[-1], leaves(MODEL.body)[-1]
    assert one.std() == pytest.approx(other.std(), rel=0.2)


def test_one_key_one_copy():
    layers = [
        leaves(copy.classifier)
        for key in (KEY, KEY, jax.random.key(1))
        for copy in metrics.randomize(MODEL, IMAGE, key=key, layers=1)
    ]
    same = [all(map(np.array_equal, layers[0], other)) for other in layers[1:]]
    assert same == [True, False]


# ------------------------------------------------------------------------------------- who notices


def edge_map(model, image):
    return edges(None, image, None)


def gradient_map(model, image):
    return attributions.gradient(jx.class_score(model, 1, "logit"), image).saliency


def cam_map(model, image):
    return attributions.grad_cam(model, image, 1).attribution


def igos_map(model, image):
    """Of the logit, which random networks have, too, for the class that rises most above the baseline."""
    baseline = jx.blur_baseline(image, kernel=23)
    rises = MODELS[0](jnp.stack([image, baseline]))
    target = jnp.argmax(rises[0] - rises[1]).astype(jnp.int32)
    score = jx.class_score(model, target, "logit")
    found = jx.igos_pp(score, image, baseline, size=6, iterations=6, l1=0.001, l2=0.001)
    return 1.0 - found.mask


MODELS = [MODEL]  # the trained one of the check that runs


def similarity(explain, seed):
    MODELS[0] = Small(seed)
    found = metrics.parameter_randomization(
        explain, MODELS[0], picture(seed), key=jax.random.key(seed), layers="all"
    )
    return abs(float(found.rank[-1]))


def test_an_edge_detector_fails():
    for seed in range(3):
        assert similarity(edge_map, seed) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("explain", [gradient_map, cam_map, igos_map])
def test_methods_that_ask_the_classifier_pass(explain):
    """In the mean over networks: a map of few cells may by chance be like another."""
    found = np.array([similarity(explain, seed) for seed in range(6)])
    assert np.nanmean(found) < 0.7
    assert np.isfinite(found).sum() >= 4  # a shuffled network may leave nothing to explain


def test_rows_are_those_of_a_loop():
    found = metrics.parameter_randomization(gradient_map, MODEL, IMAGE, key=KEY)
    original = gradient_map(MODEL, IMAGE)
    np.testing.assert_allclose(found.original, original, rtol=1e-4, atol=1e-7)
    for row, copy in enumerate(metrics.randomize(MODEL, IMAGE, key=KEY)):
        other = gradient_map(copy.classifier, IMAGE)
        assert found.layers[row] == copy.layer
        expected = metrics.rank_correlation(original, other)
        assert float(found.rank[row]) == pytest.approx(float(expected), abs=1e-3)


def test_targets():
    def gradient(model, image, target):
        return attributions.gradient(jx.class_score(model, target, "logit"), image).saliency

    def blind(model, image, target):
        return edge_map(model, image)

    alike = metrics.target_randomization(blind, MODEL, IMAGE, 0, 1)
    assert float(alike.rank) == pytest.approx(1, abs=1e-5)
    assert float(alike.ssim) == pytest.approx(1, abs=1e-4)
    assert float(metrics.target_randomization(gradient, MODEL, IMAGE, 0, 1).rank) < 0.95
    with pytest.raises(ValueError, match="two classes, got 1 twice"):
        metrics.target_randomization(gradient, MODEL, IMAGE, 1, 1)


def test_bad_input():
    with pytest.raises(ValueError, match="no parameters to randomise"):
        metrics.layer_names(lambda images: images.mean((1, 2)), IMAGE)
    with pytest.raises(ValueError, match="unknown layer 'stm': did you mean 'stem'"):
        metrics.randomize(MODEL, IMAGE, key=KEY, layers=["stm"])
    with pytest.raises(ValueError, match="unknown mode"):
        metrics.randomize(MODEL, IMAGE, key=KEY, mode="cascade")
    with pytest.raises(TypeError, match="must be a function"):
        metrics.parameter_randomization(3, MODEL, IMAGE, key=KEY)


# --------------------------------------------------------------------------------- adversarial photos


def test_the_attack_stays_near_and_fools():
    net = Net(jax.random.normal(KEY, (432, 6)) / 20, jax.random.normal(jax.random.key(1), (6, 4)))
    image = jax.random.normal(jax.random.key(2), (12, 12, 3))
    right = int(jx.top_class(net, image))
    found = metrics.adversarial_photo(net, image, (right + 1) % 4, epsilon=0.3)
    assert bool(found.fooled)
    assert int(jx.top_class(net, found.image)) == (right + 1) % 4
    assert float(jnp.abs(found.image - image).max()) <= 0.3 + 1e-5
    weak = metrics.adversarial_photo(net, image, (right + 1) % 4, epsilon=1e-6)
    assert not bool(weak.fooled)


@pytest.mark.parametrize(
    ("curve", "rise"),
    [
        ([0, 1, 1, 1, 1], 0.25),
        ([0, 0, 0, 0, 1], 1.0),
        ([0.5, 0.5, 0.5, 0.5, 1], 0.0),
        ([0, 0.4, 0.5, 0, 1], 0.5),
    ],
)
def test_rise_by_hand(curve, rise):
    assert float(metrics.adversarial_rise(jnp.linspace(0, 1, 5), jnp.asarray(curve, jnp.float32))) == rise


def test_rise_without_meaning():
    fraction = jnp.linspace(0, 1, 3)
    assert np.isnan(metrics.adversarial_rise(fraction, jnp.zeros(3)))
    assert np.isnan(metrics.adversarial_rise(fraction, jnp.array([0.0, jnp.nan, 1.0])))
    with pytest.raises(ValueError, match="same shape"):
        metrics.adversarial_rise(fraction, jnp.zeros(4))


def test_the_check_is_the_curves_of_both_photos():
    def explain(score, image, baseline):
        return attributions.gradient(score, image).saliency

    right = int(jx.top_class(MODEL, IMAGE))
    wrong = (right + 1) % 5
    found = metrics.adversarial_check(explain, MODEL, IMAGE, right, wrong, epsilon=0.5, curve_steps=8)
    for image, target, curves, rise in (
        (IMAGE, right, found.clean, found.clean_rise),
        (found.adversarial.image, wrong, found.attacked, found.attacked_rise),
    ):
        score, baseline = jx.class_score(MODEL, target), jx.blur_baseline(image)
        direct = jx.insertion_deletion(score, image, baseline, explain(score, image, baseline), steps=8)
        np.testing.assert_allclose(curves.insertion, direct.insertion, rtol=1e-4)
        assert float(rise) == float(metrics.adversarial_rise(direct.fraction, direct.insertion))
