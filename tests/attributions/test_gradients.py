"""Gradients, plain, integrated and over noise, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attributed import BASELINE, IMAGE, KEY, NET, SHAPE, SMOOTH, TARGET, close, normal, slope, value

import jaxplain as jx
from jaxplain import attributions, paths
from jaxplain.attributions import METHODS, Status


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


@pytest.mark.parametrize(
    ("rule", "most"),
    [("adaptive", 1e-3), ("gauss_legendre", 1e-4), ("midpoint", 0.01), ("riemann", 0.1)],
)
def test_integrated_gradients_are_complete(rule, most):
    for seed in (20, 21, 22):
        found = attributions.integrated_gradients(SMOOTH, normal(seed, *SHAPE), BASELINE, rule=rule)
        assert found.error < most
        rise = value(normal(seed, *SHAPE)) - value(BASELINE)
        assert abs(found.attribution.sum() - rise) <= most * abs(rise) + 1e-6


def test_kinks_on_the_path_need_more_steps():
    """The path crosses kinks of the ReLU unless it starts at zero: then all maps grow in proportion."""
    score = jx.class_score(NET, TARGET)
    zero = attributions.integrated_gradients(score, IMAGE, np.zeros(SHAPE, np.float32), rule="gauss_legendre")
    assert zero.error < 1e-4
    few, many = (
        attributions.integrated_gradients(
            score, IMAGE, BASELINE, n_steps=steps, rule="gauss_legendre", batch_size=64
        ).error
        for steps in (64, 1024)
    )
    assert many < 1e-3 < few


# ------------------------------------------------------------------------------------ nodes placed by scores


def steep(place):
    """A jump of width 0.01 on the way from black to white."""
    return jax.tree_util.Partial(_steep, jnp.float32(place))


def _steep(place, images):
    return jax.nn.sigmoid((images.mean((1, 2, 3)) - place) / 0.01)


BLACK, WHITE = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 8, 64])
def test_adaptive_nodes_are_exact_on_a_linear_score(n_steps):
    weights = normal(30, *SHAPE)
    found = attributions.integrated_gradients(
        lambda images: (images * weights[None]).sum((1, 2, 3)), IMAGE, BASELINE, n_steps=n_steps
    )
    close(found.attribution, (IMAGE - BASELINE) * weights, 1e-5)
    assert found.error < 1e-5
    assert int(found.evaluations) == n_steps + max(2, n_steps // 2) + 1


def test_adaptive_integrated_gradients_are_the_loop():
    """The nodes are those that the scores on the path give."""
    places = paths.pilot(9)
    scored = [value(BASELINE + float(place) * (IMAGE.astype(np.float64) - BASELINE)) for place in places]
    nodes, weights = (np.asarray(part, np.float64) for part in paths.adaptive(jnp.array(scored), 9))
    mean = sum(
        weight * slope(BASELINE + node * (IMAGE.astype(np.float64) - BASELINE))
        for node, weight in zip(nodes, weights, strict=True)
    )
    found = attributions.integrated_gradients(SMOOTH, IMAGE, BASELINE, n_steps=9, batch_size=4)
    close(found.attribution, (IMAGE - BASELINE) * mean, 1e-5)


@pytest.mark.parametrize("rule", paths.RULES)
def test_adaptive_nodes_see_a_steep_score(rule):
    """At no more cost: 32 gradients and 15 more scores, each a third of one, against 37 gradients."""
    even, found = (
        np.mean(
            [
                attributions.integrated_gradients(steep(place), WHITE, BLACK, n_steps=steps, rule=rule).error
                for place in (0.08, 0.213, 0.4, 0.55, 0.77, 0.9)
            ]
        )
        for steps, rule in ((37, rule), (32, "adaptive"))
    )
    assert found < 0.003
    assert found < even / 3


def test_more_adaptive_nodes_leave_a_smaller_error():
    score = jx.class_score(NET, TARGET)
    errors = np.array(
        [
            [
                attributions.integrated_gradients(
                    score, normal(seed, *SHAPE), BASELINE, n_steps=steps, batch_size=64
                ).error
                for steps in (8, 64, 512)
            ]
            for seed in (20, 21, 22, 23)
        ]
    ).mean(0)
    assert errors[2] < errors[1] / 3 < errors[0] / 9


def test_adaptive_rows_of_a_batch_have_their_own_nodes():
    """Where the score jumps differs by row, and with it the nodes."""

    def explain(place):
        return attributions.integrated_gradients(steep(place), WHITE, BLACK, n_steps=32, batch_size=5)

    jumps = jnp.array([0.1, 0.5, 0.83])
    together = jax.jit(jax.vmap(explain))(jumps)
    assert np.ptp(np.asarray(together.attribution)[:, 0, 0, 0]) < 0.02  # all share out the same rise
    for index, place in enumerate(jumps):
        jax.tree.map(lambda one, row, index=index: close(row[index], one), explain(place), together)


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
