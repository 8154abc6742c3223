"""Every explanation is one program for CPU, GPU and TPU, with the classifier's parameters as arguments; the
program that was written to bytes and read again gives what the function gives."""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from support import small

import jaxplain as jx
from jaxplain import attributions, masks, metrics, sag, xnn, zoo
from jaxplain.methods import METHODS

PLATFORMS = ("cpu", "cuda", "tpu")
TINY = {"size": 4, "iterations": 2}


class Given(NamedTuple):
    """The arguments of every exported program."""

    model: small.Small
    srae: xnn.SRAE
    image: jax.Array  # [16, 16, 3]
    baseline: jax.Array  # [16, 16, 3]
    saliency: jax.Array  # [4, 4]
    target: jax.Array  # int32 []
    key_data: jax.Array  # exported programs take no typed keys

    @property
    def key(self):
        return jax.random.wrap_key_data(self.key_data)

    @property
    def score(self):
        return jx.class_score(self.model, self.target)

    @property
    def pictures(self):
        return self.score, self.image, self.baseline

    @property
    def network(self):
        return xnn.ExplanationNetwork(
            xnn.Trunk(self.model), xnn.ClassifierHead(self.model), self.srae, targets=1
        )


@pytest.fixture(scope="module")
def given():
    scene = small.scene()
    srae = xnn.SRAE(xnn.SRAEConfig(features=16, widths=(8,), n_features=3), rngs=nnx.Rngs(0))
    saliency = jax.random.uniform(jax.random.key(1), (4, 4))
    key_data = jax.random.key_data(jax.random.key(2))
    return Given(srae=srae, saliency=saliency, target=jnp.int32(scene.target), key_data=key_data, **{
        name: getattr(scene, name) for name in ("model", "image", "baseline")
    })  # fmt: skip


def exported(function, *arguments):
    """The program for all platforms, of the leaves of the arguments and to those of the result."""
    leaves, treedef = jax.tree_util.tree_flatten(arguments)

    def flat(*leaves):
        return jax.tree_util.tree_leaves(function(*jax.tree_util.tree_unflatten(treedef, leaves)))

    program = export.export(jax.jit(flat), platforms=PLATFORMS)(*leaves)
    assert program.platforms == PLATFORMS
    return program


# ------------------------------------------------------------------------------- what there is to export


def takes_a_model(function):
    """Does it explain, or measure explanations of, a score or a classifier?"""
    return {"score", "classifier", "explain"} & set(inspect.signature(function).parameters)


def public_explanations():
    """The names of all functions, such as "masks.igos", that are no entry of the registry."""
    registered = {spec.function for spec in METHODS.values()}
    for module in (masks, attributions, metrics, sag, xnn):
        family = module.__name__.split(".")[1]
        for name, thing in vars(module).items():
            public = inspect.isfunction(thing) and not name.startswith("_") and thing not in registered
            if public and takes_a_model(thing):
                yield f"{family}.{name}"


# What runs on the host by nature, around compiled programs of its own.
ON_THE_HOST = {
    "sag.graph",  # grows node by node
    "metrics.layer_names",  # words
    "metrics.randomize",  # yields classifiers, one after the other
}
OPTIONS = {  # smaller than the defaults
    "size": 4,
    "iterations": 2,
    "n_samples": 3,
    "grid": 3,
    "window": 6,
}


def method(name):
    function = METHODS[name].function
    signature = inspect.signature(function).parameters
    options = {option: value for option, value in OPTIONS.items() if option in signature}
    if name == "extremal-perturbation":
        options["areas"] = (0.1, 0.4)
    return lambda g: function(*g.pictures, key=g.key, **options)


def gradient_of(score, image, baseline):
    return attributions.gradient(score, image, baseline)


METRICS = {
    "metrics.insertion_deletion": lambda g: jx.insertion_deletion(*g.pictures, g.saliency, n_steps=8),
    "metrics.confidence_on_explanation": lambda g: metrics.confidence_on_explanation(*g.pictures, g.saliency),
    "metrics.infidelity": lambda g: metrics.infidelity(
        *g.pictures, jnp.broadcast_to(g.image.sum(-1), (16, 16)), key=g.key, n_samples=5
    ),
    "metrics.max_sensitivity": lambda g: metrics.max_sensitivity(
        *g.pictures, gradient_of, key=g.key, n_samples=2
    ),
    "metrics.parameter_randomization": lambda g: metrics.parameter_randomization(
        *g.pictures, gradient_of, key=g.key, layers=2
    ),
    "metrics.target_randomization": lambda g: metrics.target_randomization(
        *g.pictures, gradient_of, (g.target + 1) % 5
    ),
    "metrics.adversarial_photo": lambda g: metrics.adversarial_photo(
        g.model, g.image, (g.target + 1) % 5, n_steps=2
    ),
    "metrics.adversarial_check": lambda g: metrics.adversarial_check(
        *g.pictures, gradient_of, (g.target + 1) % 5, attack_steps=2, n_steps=4
    ),
}
SAG = {
    "sag.search": lambda g: sag.search(
        *g.pictures, grid=3, beam_width=2, max_size=4, max_explanations=4,
        proposal=sag.proposal_map(*g.pictures, grid=3, n_steps=2),
    ),
    "sag.proposal_map": lambda g: sag.proposal_map(*g.pictures, grid=3, n_steps=2),
}  # fmt: skip
CASES = {name: method(name) for name in METHODS} | METRICS | SAG
MORE = {
    "the published setting": lambda g: jx.igos_pp(
        *g.pictures, key=g.key, **masks.PAPER["igos++"] | {"n_steps": 3} | TINY
    ),
    "several images": lambda g: jax.vmap(lambda image: jx.igos_pp(g.score, image, g.baseline, **TINY))(
        jnp.stack([g.image, g.image[::-1]])
    ),
    "an x-feature": lambda g: jx.igos_pp(
        g.network.feature_score(0, unit=2.0), g.image, g.baseline, **TINY
    ),
    "what an x-feature adds, found by patches": lambda g: sag.search(
        g.network.feature_score(1, of="contribution"), g.image, g.baseline, grid=2, beam_width=2
    ),
    "a fit": lambda g: xnn.fit(
        jax.random.uniform(g.key, (20, 6)), g.image[0, :10].reshape(-1)[:20], key=g.key, n_features=2,
        widths=(4,), epochs=2, pretrain_epochs=1, batch_size=6, max_rounds=1,
    ),
    "bfloat16": lambda g: jx.igos_pp(
        jx.class_score(jx.lower_precision(g.model), g.target), g.image, g.baseline, **TINY
    ),
    "rematerialised": lambda g: jx.igos_pp(jx.rematerialize(g.score), g.image, g.baseline, **TINY),
    "a derivative": lambda g: jax.grad(
        lambda image: attributions.gradient(g.score, image).importance.sum()
    )(g.image),
}  # fmt: skip
QUICK = ("gradient", "igos++")


def test_nothing_public_is_left_out():
    assert set(public_explanations()) == set(METRICS) | set(SAG) | ON_THE_HOST


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in [*CASES, *MORE]],
)
def test_a_program_for_all_platforms_gives_the_same(given, name):
    function = (CASES | MORE)[name]
    program = export.deserialize(exported(function, given).serialize())
    found = program.call(*jax.tree_util.tree_leaves(given))
    expected = jax.tree_util.tree_leaves(function(given))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_real_network_is_lowered_for_all_platforms():
    """Without weights: only shapes."""
    build = zoo.MODELS["efficientnet-lite0"].build
    model = nnx.eval_shape(lambda: build("efficientnet-lite0", small.LABELS, rngs=nnx.Rngs(0)))
    picture = jax.ShapeDtypeStruct((224, 224, 3), jnp.float32)
    program = exported(
        lambda model, image: jx.igos_pp(jx.class_score(model, 3), image, image[::-1]), model, picture
    )
    assert len(program.serialize()) < 10 * 2**20  # parameters (20 MB) are arguments and not part of it
