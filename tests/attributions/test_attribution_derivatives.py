"""Derivatives of attributions with respect to the image and the score's parameters, and their memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from support.attributed import BASELINE, IMAGE, METHODS, NET, SAMPLING, MapNet, explain, normal

from jaxplain import attributions

SIGNED = ["gradient", "input_x_gradient", "integrated_gradients", "smooth_grad", "var_grad"]


class SmoothNet(MapNet):
    """Without kinks, which finite differences would straddle."""

    def activation(self, values):
        return jnp.tanh(values)


SMOOTH_NET = SmoothNet(*NET)
COTANGENT = jnp.asarray(normal(50, 6, 8))


def summary(name, net, image):
    """A number that depends on every pixel of the importance."""
    options = {"reduce": "sum"} if name in SIGNED else {}
    options |= {"rule": "gauss_legendre"} if name == "integrated_gradients" else {}  # whose nodes are fixed
    found = explain(name, image, net=net, **options)
    return jnp.sum(found.saliency(6, 8) * COTANGENT)


def along(seed, gradient):
    """A random direction in which every component of a gradient contributes with the same sign: if one is
    missing or wrong, the directional derivative differs."""
    noise = np.abs(normal(seed, *gradient.shape)) + 0.1
    direction = np.where(gradient < 0, -noise, noise)
    return direction / np.linalg.norm(direction)


QUICK = ["gradient", "grad_cam", "excitation_backprop", "occlusion"]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_derivatives_are_those_of_finite_differences(name):
    run = jax.jit(partial(summary, name))
    image = jnp.asarray(IMAGE)
    of_net, of_image = jax.jit(jax.grad(partial(summary, name), argnums=(0, 1)))(SMOOTH_NET, image)
    step = 1e-2
    for seed, (leaf, gradient) in enumerate(
        [(None, of_image), ("mix", of_net.mix), ("first", of_net.first), ("second", of_net.second)]
    ):
        direction = along(60 + seed, np.asarray(gradient))
        ends = []
        for sign in (1, -1):
            shift = jnp.asarray(sign * step * direction, jnp.float32)
            net = (
                SMOOTH_NET
                if leaf is None
                else SMOOTH_NET._replace(**{leaf: getattr(SMOOTH_NET, leaf) + shift})
            )
            ends.append(float(run(net, image + shift if leaf is None else image)))
        expected = (ends[0] - ends[1]) / (2 * step)
        found = float(np.sum(np.asarray(gradient, np.float64) * direction))
        assert found == pytest.approx(expected, rel=0.02, abs=2e-4), (leaf, found, expected)
        assert abs(found) > 1e-3


@pytest.mark.parametrize(
    "name",
    ["grad_cam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gradient", "var_grad", "rise"))],
)
def test_derivatives_under_vmap(name):
    images = jnp.stack([IMAGE, BASELINE])
    one = jax.grad(partial(summary, name), argnums=(0, 1))
    of_nets, of_images = jax.jit(jax.vmap(one, in_axes=(None, 0)))(SMOOTH_NET, images)

    def total(net, images):
        return jax.vmap(partial(summary, name, net))(images).sum()

    of_net, of_all_images = jax.jit(jax.grad(total, argnums=(0, 1)))(SMOOTH_NET, images)
    np.testing.assert_allclose(of_images, of_all_images, rtol=1e-3, atol=1e-5)
    for rows, leaf in zip(of_nets, of_net, strict=True):
        np.testing.assert_allclose(rows.sum(0), leaf, rtol=1e-3, atol=1e-5)
    alone = jax.jit(one)(SMOOTH_NET, images[1])[1]
    np.testing.assert_allclose(of_images[1], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "score",
    [
        lambda images: images.sum((1, 2, 3)),
        pytest.param(lambda images: 0 * images[:, 0, 0, 0], marks=pytest.mark.slow),
    ],
    ids=["linear", "constant"],
)
def test_derivatives_of_integrated_gradients_are_finite_without_curvature(score):
    """The scores on the path then have no turns, and an equal image and baseline no difference."""

    def total(image, baseline):
        found = attributions.integrated_gradients(score, image, baseline, n_steps=4, reduce="sum")
        return found.importance.sum()

    for baseline in (BASELINE, IMAGE):
        of_image, of_baseline = jax.grad(total, argnums=(0, 1))(jnp.asarray(IMAGE), jnp.asarray(baseline))
        slope = jax.grad(lambda image: score(image[None])[0])(IMAGE)
        np.testing.assert_allclose(of_image, slope, atol=1e-5)
        np.testing.assert_allclose(of_baseline, -slope, atol=1e-5)


@pytest.mark.slow
def test_derivatives_of_adaptive_integrated_gradients_are_those_of_the_integral():
    """Not those of the quadrature error, which depends on how nodes move."""

    def total(rule, n_steps, image):
        found = explain(
            "integrated_gradients", image, net=SMOOTH_NET, n_steps=n_steps, rule=rule, reduce="sum"
        )
        return jnp.sum(found.importance * COTANGENT)

    found, wanted = (
        jax.jit(jax.grad(partial(total, rule, n_steps)))(jnp.asarray(IMAGE))
        for rule, n_steps in (("adaptive", 16), ("gauss_legendre", 30))
    )
    assert jnp.linalg.norm(found - wanted) < 0.005 * jnp.linalg.norm(wanted)


# ---------------------------------------------------------------------------------------------------------
# Memory


def sizes(program):
    """Yield the number of elements of every value of a program."""
    for operation in program.eqns:
        for variable in operation.outvars:
            yield int(np.prod(getattr(variable.aval, "shape", ())))
        for inner in jaxprs_in_params(operation.params):
            yield from sizes(inner)


MANY = {
    "integrated_gradients": {"n_steps": 200},
    "smooth_grad": {"n_samples": 200},
    "var_grad": {"n_samples": 200},
    "rise": {"n_samples": 200},
    "occlusion": {"window": 1},
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", SAMPLING)
def test_the_backward_pass_needs_one_batch(name, mapped):
    """The model sees at most `batch_size` images at a time, and no array holds all of them or their masks."""
    batches = []

    class Watched(SmoothNet):
        def __call__(self, images):
            batches.append(len(images))
            return super().__call__(images)

    def total(net, image):
        return explain(name, image, net=net, batch_size=3, **MANY[name]).importance.sum()

    def backward(net, images):
        if mapped:
            return jax.grad(lambda net, images: jax.vmap(partial(total, net))(images).sum(), (0, 1))(
                net, images
            )
        return jax.grad(total, (0, 1))(net, images[0])

    program = jax.make_jaxpr(backward)(Watched(*NET), jnp.stack([IMAGE, BASELINE]))
    assert max(batches) <= 3
    if name != "var_grad":  # needs the gradient of every copy for the derivative of the variance
        assert max(sizes(program.jaxpr)) < 48 * 48  # of masks of 48 pixels; there are at least 49 images
