"""Gradients, plain, integrated and over noisy copies, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attributed import BASELINE, IMAGE, KEY, NET, SHAPE, SMOOTH, TARGET, close, normal, slope, value

import jaxplain as jx
from jaxplain import attributions, paths
from jaxplain.explanation import Status


def raw(found):
    return np.asarray(found.details.attribution)


def integrated(image=IMAGE, baseline=BASELINE, score=SMOOTH, batch_size=64, **options):
    return attributions.integrated_gradients(score, image, baseline, batch_size=batch_size, **options)


def error(found):
    return float(found.details.completeness_error)


def test_slope_is_the_derivative_of_value():
    """The oracle itself, by finite differences."""
    found = slope(IMAGE)
    for place in [(0, 0, 0), (5, 7, 2), (2, 3, 1)]:
        step = np.zeros(SHAPE)
        step[place] = 1e-5
        close((value(IMAGE + step) - value(IMAGE - step)) / 2e-5, found[place], 1e-8)


def test_gradient():
    found = attributions.gradient(SMOOTH, IMAGE)
    close(raw(found), slope(IMAGE))
    close(found.importance, np.abs(slope(IMAGE)).sum(-1))
    assert (int(found.status), int(found.evaluations)) == (Status.OK, 1)


def test_input_x_gradient():
    close(raw(attributions.input_x_gradient(SMOOTH, IMAGE)), IMAGE * slope(IMAGE))


@pytest.mark.parametrize("reduce", ["abs_sum", "abs_max", "sum"])
def test_channels_become_one_number(reduce):
    found = attributions.gradient(SMOOTH, IMAGE, reduce=reduce)
    expected = {
        "abs_sum": np.abs(raw(found)).sum(-1),
        "abs_max": np.abs(raw(found)).max(-1),
        "sum": raw(found).sum(-1),
    }
    close(found.importance, expected[reduce])


# ---------------------------------------------------------------------------------------------------------
# Integrated gradients

NODES = {
    "riemann": lambda steps: [((s + 1) / steps, 1 / steps) for s in range(steps)],
    "midpoint": lambda steps: [((s + 0.5) / steps, 1 / steps) for s in range(steps)],
    "gauss_legendre": lambda steps: [
        ((node + 1) / 2, weight / 2)
        for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True)
    ],
}


def on_path(node):
    return BASELINE + float(node) * (IMAGE.astype(np.float64) - BASELINE)


@pytest.mark.parametrize("rule", paths.RULES)
def test_integrated_gradients_are_the_loop(rule):
    found = integrated(n_steps=5, rule=rule, batch_size=2)
    mean = sum(weight * slope(on_path(node)) for node, weight in NODES[rule](5))
    expected = (IMAGE - BASELINE) * mean
    close(raw(found), expected)
    difference = value(IMAGE) - value(BASELINE)
    close(error(found), abs(expected.sum() - difference) / abs(difference), 1e-5)
    assert int(found.evaluations) == 7


def test_adaptive_integrated_gradients_are_the_loop():
    """At the nodes that follow from the scores on the path."""
    scored = [value(on_path(place)) for place in paths.pilot(9)]
    nodes, weights = (np.asarray(part, np.float64) for part in paths.adaptive(jnp.array(scored), 9))
    mean = sum(weight * slope(on_path(node)) for node, weight in zip(nodes, weights, strict=True))
    close(raw(integrated(n_steps=9, batch_size=4)), (IMAGE - BASELINE) * mean, 1e-5)


@pytest.mark.parametrize(
    ("rule", "most"),
    [("adaptive", 1e-3), ("gauss_legendre", 1e-4), ("midpoint", 0.01), ("riemann", 0.1)],
)
def test_integrated_gradients_are_complete(rule, most):
    for seed in (20, 21, 22):
        image = normal(seed, *SHAPE)
        found = integrated(image, rule=rule)
        assert error(found) < most
        difference = value(image) - value(BASELINE)
        assert abs(raw(found).sum() - difference) <= most * abs(difference) + 1e-6


@pytest.mark.slow
def test_kinks_on_the_path_need_more_steps():
    """The path crosses kinks of the ReLU unless it starts at zero: then all maps grow in proportion."""
    score = jx.class_score(NET, TARGET)
    from_zero = integrated(baseline=np.zeros(SHAPE, np.float32), score=score, rule="gauss_legendre")
    assert error(from_zero) < 1e-4
    few, many = (error(integrated(score=score, n_steps=steps, rule="gauss_legendre")) for steps in (64, 1024))
    assert many < 1e-3 < few


def steep(place):
    """A score that jumps within a width of 0.01 on the way from black to white."""
    return jax.tree_util.Partial(_steep, jnp.float32(place))


def _steep(place, images):
    return jax.nn.sigmoid((images.mean((1, 2, 3)) - place) / 0.01)


BLACK, WHITE = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)


@pytest.mark.parametrize("n_steps", [1, 2, 9])
def test_adaptive_nodes_are_exact_on_a_linear_score(n_steps):
    weights = normal(30, *SHAPE)
    found = integrated(score=lambda images: (images * weights[None]).sum((1, 2, 3)), n_steps=n_steps)
    close(raw(found), (IMAGE - BASELINE) * weights, 1e-5)
    assert error(found) < 1e-5
    assert int(found.evaluations) == n_steps + max(2, n_steps // 2) + 1


def test_adaptive_nodes_handle_a_steep_score():
    """At no more cost: 32 gradients and 15 more scores, each a third of a gradient, against 37 gradients."""
    jumps = (0.08, 0.213, 0.4, 0.55, 0.77, 0.9)

    def mean_error(**options):
        return np.mean([error(integrated(WHITE, BLACK, steep(place), **options)) for place in jumps])

    adaptive = mean_error(n_steps=32)
    assert adaptive < 0.003
    for rule in paths.RULES:
        assert adaptive < mean_error(n_steps=37, rule=rule) / 3


@pytest.mark.slow
def test_more_adaptive_nodes_leave_a_smaller_error():
    score = jx.class_score(NET, TARGET)
    images = [normal(seed, *SHAPE) for seed in (20, 21, 22, 23)]
    errors = [
        np.mean([error(integrated(image, score=score, n_steps=steps)) for image in images])
        for steps in (8, 64, 512)
    ]
    assert errors[2] < errors[1] / 3 < errors[0] / 9


@pytest.mark.slow
def test_adaptive_rows_of_a_batch_have_their_own_nodes():
    """The score jumps at another place in each row."""

    def run(place):
        return integrated(WHITE, BLACK, steep(place), n_steps=32, batch_size=5)

    jumps = jnp.array([0.1, 0.5, 0.83])
    together = jax.jit(jax.vmap(run))(jumps)
    assert np.ptp(raw(together)[:, 0, 0, 0]) < 0.02  # the score difference is the same
    for index, place in enumerate(jumps):
        jax.tree.map(lambda one, row, index=index: close(row[index], one), run(place), together)


def test_no_difference_has_no_relative_error():
    found = integrated(baseline=IMAGE)
    assert not np.any(raw(found))
    assert not np.isfinite(error(found))
    assert int(found.status) == Status.OK


# ---------------------------------------------------------------------------------------------------------
# Over noisy copies


@pytest.mark.parametrize("batch_size", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_smooth_grad_and_var_grad_are_the_loop(batch_size):
    noise = 0.3 * normal(7, 7, *SHAPE)
    slopes = np.stack([slope(IMAGE + sample) for sample in noise])
    mean = attributions.smooth_grad(SMOOTH, IMAGE, noise_samples=noise, batch_size=batch_size)
    close(raw(mean), slopes.mean(0))
    close(mean.importance, np.abs(slopes.mean(0)).sum(-1))
    variance = attributions.var_grad(SMOOTH, IMAGE, noise_samples=noise, batch_size=batch_size)
    close(raw(variance), slopes.var(0), 1e-8)
    assert int(mean.evaluations) == int(variance.evaluations) == 7


@pytest.mark.parametrize(
    "method", [attributions.smooth_grad, pytest.param(attributions.var_grad, marks=pytest.mark.slow)]
)
def test_the_noise_is_drawn_from_the_key(method):
    keys = [jax.random.fold_in(KEY, sample) for sample in range(5)]
    noise = jnp.stack([jax.random.normal(key, SHAPE, jnp.float32) for key in keys])
    found = raw(method(SMOOTH, IMAGE, key=KEY, n_samples=5, noise=0.2))
    close(found, raw(method(SMOOTH, IMAGE, noise_samples=0.2 * noise)))
    other = method(SMOOTH, IMAGE, key=jax.random.key(4), n_samples=5, noise=0.2)
    assert not np.allclose(found, raw(other))
    published = raw(method(SMOOTH, IMAGE, key=KEY, n_samples=5))  # 15% of the range
    close(published, raw(method(SMOOTH, IMAGE, key=KEY, n_samples=5, noise=0.15 * np.ptp(IMAGE))))
    without = raw(method(SMOOTH, IMAGE, key=KEY, n_samples=5, noise=0.0))
    close(without, slope(IMAGE) if method is attributions.smooth_grad else 0.0, 1e-6)


def test_a_small_variance_beside_a_large_mean():
    def score(images):  # its gradient is 3000 + x
        return (3000 * images + images**2 / 2).sum((1, 2, 3))

    noise = 0.5 * normal(8, 40, *SHAPE)
    found = attributions.var_grad(score, IMAGE, noise_samples=noise, batch_size=7)
    np.testing.assert_allclose(raw(found), (IMAGE + noise).var(0), rtol=0.01)
