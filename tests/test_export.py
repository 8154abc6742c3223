"""Every explanation is one program for CPU, GPU and TPU, with the classifier's parameters as arguments; the
program that was written to bytes and read again gives what the function gives."""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx
from jax import export

import jaxplain as jx
from jaxplain import attributions, masks, metrics, sag, xnn, zoo

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
    """The names of all of them, as "masks.igos" and "masks.ABLATIONS no BTV"."""
    for module in (masks, attributions, metrics, sag, xnn):
        family = module.__name__.split(".")[1]
        for name, thing in vars(module).items():
            if inspect.isfunction(thing) and not name.startswith("_") and takes_a_model(thing):
                yield f"{family}.{name}"
    yield from (f"masks.METHODS {name}" for name in masks.METHODS)
    yield from (f"masks.ABLATIONS {name}" for name in masks.ABLATIONS)
    yield from (f"attributions.METHODS {name}" for name in attributions.METHODS)


# What runs on the host by nature, around compiled programs of its own.
ON_THE_HOST = {
    "sag.graph",  # grows node by node
    "metrics.layer_names",  # words
    "metrics.randomize",  # yields classifiers, one after the other
}


def explain_with_gradient(model, image, target=1):
    return attributions.gradient(jx.class_score(model, target), image).saliency


MASKS = {
    "masks.meaningful_perturbation": lambda g: masks.meaningful_perturbation(*g.pictures, **TINY),
    "masks.extremal_perturbation": lambda g: masks.extremal_perturbation(
        *g.pictures, areas=(0.1, 0.4), **TINY
    ),
}
EXTRA = {  # arguments besides score or classifier and image
    "gradient": lambda g: ((), {}),
    "input_x_gradient": lambda g: ((), {}),
    "integrated_gradients": lambda g: ((g.baseline,), {"n_steps": 3}),
    "smooth_grad": lambda g: ((), {"key": g.key, "n_samples": 3}),
    "var_grad": lambda g: ((), {"key": g.key, "n_samples": 3}),
    "grad_cam": lambda g: ((g.target,), {}),
    "grad_cam_pp": lambda g: ((), {}),
    "rise": lambda g: ((g.baseline,), {"key": g.key, "n_masks": 6, "grid": 3}),
    "occlusion": lambda g: ((g.baseline,), {"window": 6}),
    "excitation_backprop": lambda g: ((g.target,), {"layer": "image", "contrastive": True}),
}


def attribution(name):
    function = attributions.METHODS[name]
    of_classifier = "classifier" in inspect.signature(function).parameters

    def run(g):
        more, options = EXTRA[name](g)
        return function(g.model if of_classifier else g.score, g.image, *more, **options)

    return run


def method(table, name):
    return lambda g: table[name](*g.pictures, key=g.key, **TINY)


METRICS = {
    "metrics.insertion_deletion": lambda g: jx.insertion_deletion(*g.pictures, g.saliency, steps=8),
    "metrics.confidence_on_explanation": lambda g: metrics.confidence_on_explanation(
        g.score, g.image, g.saliency, g.baseline
    ),
    "metrics.infidelity": lambda g: metrics.infidelity(
        g.score, g.image, jnp.broadcast_to(g.image.sum(-1), (16, 16)), key=g.key, samples=5
    ),
    "metrics.max_sensitivity": lambda g: metrics.max_sensitivity(
        lambda image: explain_with_gradient(g.model, image), g.image, key=g.key, samples=2
    ),
    "metrics.parameter_randomization": lambda g: metrics.parameter_randomization(
        explain_with_gradient, g.model, g.image, key=g.key, layers=2
    ),
    "metrics.target_randomization": lambda g: metrics.target_randomization(
        explain_with_gradient, g.model, g.image, g.target, (g.target + 1) % 5
    ),
    "metrics.adversarial_photo": lambda g: metrics.adversarial_photo(
        g.model, g.image, (g.target + 1) % 5, steps=2
    ),
    "metrics.adversarial_check": lambda g: metrics.adversarial_check(
        lambda score, image, _: attributions.gradient(score, image).saliency,
        g.model, g.image, g.target, (g.target + 1) % 5, steps=2, curve_steps=4,
    ),
}  # fmt: skip
SAG = {
    "sag.search": lambda g: sag.search(
        *g.pictures, grid=3, beam_width=2, max_size=4, max_roots=4, proposal=sag.proposal_map(
            *g.pictures, grid=3, steps=2
        )
    ),
    "sag.proposal_map": lambda g: sag.proposal_map(*g.pictures, grid=3, steps=2),
}  # fmt: skip
CASES = {
    **MASKS,
    **{f"masks.METHODS {name}": method(masks.METHODS, name) for name in masks.METHODS},
    **{f"masks.ABLATIONS {name}": method(masks.ABLATIONS, name) for name in masks.ABLATIONS},
    **{f"attributions.METHODS {name}": attribution(name) for name in attributions.METHODS},
    **METRICS,
    **SAG,
}
# What the tables hold is public by its own name too.
SAME = {f"masks.{function.__name__}" for function in masks.METHODS.values()}
SAME |= {f"attributions.{function.__name__}" for function in attributions.METHODS.values()}
MORE = {
    "the published setting": lambda g: jx.igos_pp(*g.pictures, key=g.key, preset="paper", steps=3, **TINY),
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
}  # fmt: skip


def test_nothing_public_is_left_out():
    assert set(public_explanations()) - SAME == set(CASES) | ON_THE_HOST


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_a_program_for_all_platforms_gives_the_same(given, name):
    function = (CASES | MORE)[name]
    program = export.deserialize(exported(function, given).serialize())
    found = program.call(*jax.tree_util.tree_leaves(given))
    expected = jax.tree_util.tree_leaves(function(given))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_real_network_is_lowered_for_all_platforms():
    """Without weights: only shapes."""
    build = zoo.MODELS["efficientnet-lite0"].build
    model = nnx.eval_shape(lambda: build("efficientnet-lite0", small.LABELS, rngs=nnx.Rngs(0)))
    picture = jax.ShapeDtypeStruct((224, 224, 3), jnp.float32)
    program = exported(
        lambda model, image: jx.igos_pp(jx.class_score(model, 3), image, image[::-1]), model, picture
    )
    assert len(program.serialize()) < 10 * 2**20  # parameters (20 MB) are arguments and not part of it
