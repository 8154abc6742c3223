"""The explanation network as a classifier and as scores; checkpoints; measures; probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support import tiny
from support.birds import quick_fit

import jaxplain as jx
from jaxplain import xnn
from jaxplain.xnn import evaluate

CELLS = (0, 47)  # features of the tiny trunk: red of the first cell, blue of the last


def planted_srae(weights=((2.0,), (3.0,))):
    """X-feature k is what cell k of `CELLS` has above -1, and the logit their weighted sum plus 1."""
    classes = len(weights[0])
    config = xnn.SRAEConfig(features=48, n_features=2, classes=classes, widths=())
    srae = xnn.SRAE(config, rngs=nnx.Rngs(0))
    kernel = np.zeros((48, 2), np.float32)
    kernel[CELLS[0], 0] = kernel[CELLS[1], 1] = 1
    srae.encoder[0].kernel[...], srae.encoder[0].bias[...] = jnp.asarray(kernel), jnp.ones(2)
    srae.head.kernel[...], srae.head.bias[...] = jnp.array(weights), jnp.ones(classes)
    return srae


@pytest.fixture(scope="module")
def network():
    model = tiny.tiny_model()
    return xnn.ExplanationNetwork(xnn.Trunk(model), xnn.ClassifierHead(model), planted_srae(), targets=7)


@pytest.fixture(scope="module")
def features():
    return jax.nn.relu(jax.random.normal(jax.random.key(0), (40, 12)))


@pytest.fixture(scope="module")
def fitted(features):
    return quick_fit(features, features[:, 0], key=jax.random.key(1), n_features=3)


@pytest.fixture
def broadcasting():
    """The zoo's layers add biases [C] to [N, C]."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 32, 32, 3)).clip(-1, 1), jnp.float32)


def bright_corners():
    """Dark but for the cells that the planted x-features look at."""
    image = np.full((32, 32, 3), -1.0, np.float32)
    image[:8, :8, 0] = image[24:, 24:, 2] = 1
    return jnp.asarray(image)


@pytest.mark.usefixtures("broadcasting")
def test_the_network_is_the_classifier_with_one_logit_through_the_x_features(network, images):
    model = tiny.tiny_model()
    features = np.asarray(model.features(images))
    x_features = np.maximum(features[:, CELLS] + 1, 0)
    np.testing.assert_allclose(network.x_features(images), x_features, rtol=1e-5)
    np.testing.assert_allclose(network.contributions(images), x_features * [2, 3], rtol=1e-5)
    np.testing.assert_allclose(network.predict(images)[:, 0], x_features @ [2, 3] + 1, rtol=1e-5)
    expected = np.array(model(images))
    expected[:, 7] = x_features @ [2, 3] + 1
    np.testing.assert_allclose(network(images), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(network.replace_logit(model(images), images), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(network.significant(images), xnn.significant(network.contributions(images)))
    # A classifier like any other.
    np.testing.assert_allclose(jx.class_score(network, 7, "logit")(images), expected[:, 7], rtol=1e-4)


def test_an_x_feature_is_a_score(network, images):
    for k in range(2):
        score = jax.jit(lambda score, images: score(images))
        activation, contribution = network.feature_score(k), network.feature_score(k, of="contribution")
        np.testing.assert_allclose(score(activation, images), network.x_features(images)[:, k], rtol=1e-5)
        np.testing.assert_allclose(
            score(contribution, images), network.contributions(images)[:, k], rtol=1e-5
        )
        np.testing.assert_allclose(
            network.feature_score(k, unit=4.0)(images), network.x_features(images)[:, k] / 4, rtol=1e-5
        )
    every = jax.vmap(lambda k: network.feature_score(k)(images))(jnp.arange(2))
    np.testing.assert_allclose(every, network.x_features(images).T, rtol=1e-5)


def test_a_heatmap_finds_what_an_x_feature_looks_at(network):
    image, dark = bright_corners(), jnp.full((32, 32, 3), -1.0)
    corners = ((slice(0, 8), slice(0, 8)), (slice(24, 32), slice(24, 32)))
    for k in range(2):
        score = network.feature_score(k, unit=2.0)
        importance = np.asarray(jx.igos_pp(score, image, dark, size=4).saliency(32, 32))
        assert importance[corners[k]].mean() > 3 * importance[corners[1 - k]].mean()


@pytest.mark.usefixtures("broadcasting")
def test_several_classes_in_one_network(images):
    model = tiny.tiny_model()
    srae = planted_srae(((2.0, 0.5), (3.0, 1.0)))
    network = xnn.ExplanationNetwork(xnn.Trunk(model), xnn.ClassifierHead(model), srae, targets=(7, 3))
    assert network.predict(images).shape == (3, 2)
    np.testing.assert_allclose(network(images)[:, [7, 3]], network.predict(images), rtol=1e-5)
    np.testing.assert_allclose(
        network.contributions(images, target=3), network.x_features(images) * jnp.array([0.5, 1.0]), rtol=1e-5
    )
    score = network.feature_score(1, of="contribution", target=3)
    np.testing.assert_allclose(score(images), network.x_features(images)[:, 1], rtol=1e-5)
    with pytest.raises(ValueError, match="class 5 is not explained"):
        network.contributions(images, target=5)


def test_what_cannot_be_a_network_is_refused(network):
    with pytest.raises(ValueError, match="targets must be 1 different classes"):
        xnn.ExplanationNetwork(network.trunk, network.head, network.srae, targets=(1, 2))
    with pytest.raises(TypeError, match="must be callable"):
        xnn.ExplanationNetwork(3, network.head, network.srae, targets=1)
    with pytest.raises(ValueError, match=r"k must be in 0\.\.1, got 2"):
        network.feature_score(2)
    with pytest.raises(ValueError, match="unknown of"):
        network.feature_score(0, of="weight")
    with pytest.raises(ValueError, match="unknown layer 'map': did you mean 'maps'"):
        xnn.Trunk(tiny.tiny_model(), "map")


def test_maps_are_averaged_in_quarters(images):
    model = tiny.tiny_model()
    maps = np.asarray(model.feature_maps(images))
    quarters = [maps[:, a : a + 2, b : b + 2].mean((1, 2)) for a in (0, 2) for b in (0, 2)]
    np.testing.assert_allclose(
        xnn.Trunk(model, "maps")(images), np.concatenate(quarters, axis=1), rtol=1e-5, atol=1e-6
    )


# ---------------------------------------------------------------------------------------------------------
# Checkpoints


def test_a_saved_network_is_the_same_network(tmp_path, fitted, features):
    xnn.save(tmp_path / "a.safetensors", fitted.srae, {"class": "cat", "seed": 1})
    srae, about = xnn.load(tmp_path / "a.safetensors")
    assert about == {"class": "cat", "seed": 1}
    assert srae.config == fitted.srae.config
    tiny.assert_bit_equal(srae, fitted.srae)
    np.testing.assert_array_equal(srae(features), fitted.srae(features))


def test_files_that_hold_no_network_are_refused(tmp_path):
    srae = planted_srae()
    whole = tmp_path / "whole.safetensors"
    xnn.save(whole, srae)
    data = whole.read_bytes()
    bad = {
        "cut": (data[: len(data) // 2], "cannot be read as a safetensors file"),
        "empty": (b"", "cannot be read as a safetensors file"),
        "text": (b"not a network at all", "cannot be read as a safetensors file"),
        "config": (data.replace(b"n_features", b"n_feetures"), "damaged configuration"),
        "size": (data.replace(b'n_features\\": 2', b'n_features\\": 3'), "must be float32"),
        "format": (data.replace(b"jaxplain-srae-1", b"jaxplain-srae-9"), "'jaxplain-srae-9'"),
    }
    for name, (content, message) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(xnn.CheckpointError, match=message) as error:
            xnn.load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    save_file({"weight": np.ones(3, np.float32)}, tmp_path / "foreign")
    with pytest.raises(xnn.CheckpointError, match="was not written by this version"):
        xnn.load(tmp_path / "foreign")
    with pytest.raises(xnn.CheckpointError, match="does not exist"):
        xnn.load(tmp_path / "nowhere")
    srae.head.bias[...] = jnp.full(1, jnp.nan)
    xnn.save(whole, srae)
    with pytest.raises(xnn.CheckpointError, match="NaN or infinite"):
        xnn.load(whole)


def test_a_stack_of_networks_is_not_one(tmp_path):
    stack = jax.tree_util.tree_map(lambda leaf: jnp.stack([leaf, leaf]), planted_srae())
    with pytest.raises(ValueError, match="save the networks of a vmapped fit one at a time"):
        xnn.save(tmp_path / "stack", stack)
    assert not list(tmp_path.iterdir())


def test_probes_are_kept_too(tmp_path):
    probe = xnn.Probe(jnp.ones((4, 3)), jnp.arange(3.0))
    xnn.save_probe(tmp_path / "probe", probe)
    tiny.assert_bit_equal(xnn.load_probe(tmp_path / "probe"), probe)
    with pytest.raises(xnn.CheckpointError, match="its format is 'jaxplain-probe-1'"):
        xnn.load(tmp_path / "probe")


# ---------------------------------------------------------------------------------------------------------
# How many x-features


def test_the_criterion_is_the_published_sum(features, fitted):
    means = np.asarray(fitted.srae.contributions(features)).mean(0) / float(fitted.srae.logit_scale[0]) / 10
    loss = float(fitted.validation.total[fitted.best_epoch])
    expected = (means**2).sum() + 0.5 * loss + 2 * 3 - 0.25 * (means > 0).sum()
    got = xnn.criterion(fitted, features, p0=0.5, p1=2.0, p2=0.25)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_lowest_criterion_wins(features, monkeypatch):
    monkeypatch.setattr(evaluate, "fit", quick_fit)
    options = {"key": jax.random.key(1), "candidates": (2, 3)}
    expensive = xnn.select_n_features(features, features[:, 0], p1=1e6, **options)
    assert expensive.n_features == 2
    assert expensive.best is expensive.fits[2]
    cheap = xnn.select_n_features(features, features[:, 0], p1=-1e6, **options)
    assert cheap.n_features == 3
    with pytest.raises(ValueError, match="at least one number"):
        xnn.select_n_features(features, features[:, 0], key=jax.random.key(1), candidates=())
    with pytest.raises(ValueError, match="none of the fits is finite"):
        xnn.select_n_features(features * jnp.nan, features[:, 0], **options)


# ---------------------------------------------------------------------------------------------------------
# Measures


def test_locality_is_the_entropy_over_cells():
    even, one = np.ones((28, 28)), np.zeros((28, 28))
    one[:4, :4] = 5
    halves = np.zeros((28, 28))
    halves[:4, :4] = halves[8:12, 20:24] = 1
    signed = one - 1e-3 * (one == 0)
    got = xnn.locality(jnp.asarray(np.stack([even, one, halves, signed, 0 * even])))
    np.testing.assert_allclose(got, [1, 0, np.log(2) / np.log(49), 0, np.nan], atol=1e-5)
    with pytest.raises(ValueError, match=r"importance must be \[M, H, W\]"):
        xnn.locality(jnp.ones((28, 28)))


def test_the_table_has_every_measure_with_its_formula_and_agreement_counts_changed_decisions():
    srae, features = planted_srae(), jnp.asarray(np.random.default_rng(0).normal(size=(30, 48)), jnp.float32)
    truth = srae(features)[:, 0]
    every = jnp.stack([truth - 1, truth + jnp.where(jnp.arange(30) < 12, 1.0, -1.0)], axis=1)
    found = xnn.diagnose(srae, features, truth, every_logit=every, label=0)
    # The network predicts 1 more than the logit it replaces; images that the other class wins by 2 stay.
    assert found.agreement == 1
    changed = xnn.diagnose(srae, features, truth, every_logit=every.at[:, 1].add(-1.5), label=0)
    assert changed.agreement == pytest.approx(18 / 30)
    np.testing.assert_allclose([found.rmse, found.r2], [0, 1], atol=1e-5)
    assert np.isnan(found.locality)
    rows = list(xnn.table(found))
    assert [row.name for row in rows] == list(xnn.MEASURES) == list(xnn.Diagnosis._fields)
    assert all(row.formula and row.better in ("high", "low", "few") for row in rows)
    with pytest.raises(ValueError, match="passed together"):
        xnn.diagnose(srae, features, truth, every_logit=every)


@given(st.integers(0, 10**6))
def test_significant_x_features_are_the_smallest_set_with_90_percent(seed):
    contributions = np.random.default_rng(seed).standard_normal((6, 5)).astype(np.float32)
    for row, chosen in zip(
        contributions, np.asarray(xnn.significant(jnp.asarray(contributions))), strict=True
    ):
        positive = np.sort(np.maximum(row, 0))[::-1]
        size = next(k for k in range(6) if positive[:k].sum() >= 0.9 * positive.sum() - 1e-6)
        assert chosen.sum() == size
        assert row[chosen].sum() >= 0.9 * positive.sum() - 1e-5


def test_recall_and_precision_of_a_replaced_logit():
    logits, labels = jnp.array([[2.0, 1, 0], [0, 2, 1], [0, 1, 2], [3, 0, 1]]), jnp.array([0, 1, 1, 2])
    assert xnn.recall_and_precision(logits, labels, 1) == (0.5, 1.0)
    replaced = xnn.replace_logit(logits, 1, jnp.array([9.0, 2, 1, 0]))
    assert xnn.recall_and_precision(replaced, labels, 1) == (0.5, 0.5)
    np.testing.assert_array_equal(replaced[:, [0, 2]], logits[:, [0, 2]])


def test_the_probe_minimises_its_loss():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 90)
    features = jnp.asarray(5 + 3 * (np.eye(3)[labels] + random.standard_normal((90, 3))), jnp.float32)
    probe = xnn.linear_probe(features, jnp.asarray(labels), 3, l2=1e-2)
    spread = features.std(0)

    def loss(probe):
        picked = jax.nn.log_softmax(probe(features))[jnp.arange(90), labels]
        return -picked.mean() + 1e-2 * jnp.sum((probe.kernel * spread[:, None]) ** 2)

    slope = jax.jit(jax.grad(loss))(probe)
    assert all(np.abs(leaf).max() < 2e-3 for leaf in slope)
    assert (probe(features).argmax(1) == labels).mean() > 0.5


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones((4, 2)), np.array([0, 0, 2, 2]), "no example of class 1"),
        (np.ones((4, 2)), np.array([0, 1, 2, 3]), r"labels must be in 0\.\.2, got 0\.\.3"),
        (np.ones((4, 2)), np.array([0, 1]), "must be"),
        (np.full((3, 2), np.nan), np.array([0, 1, 2]), "NaN or infinite values"),
    ],
)
def test_invalid_data_of_a_probe_are_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        xnn.linear_probe(features, labels, 3)
