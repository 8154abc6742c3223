"""The methods that a comparison knows: a plain dictionary of functions."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import attributions, masks
from jaxplain.checks import check_choice
from jaxplain.scores import ClassScore

Method = Callable[..., Any]
"""`method(score, image, baseline, *, key, size)`, traced by JAX, for one image.

`score` is a `jaxplain.ClassScore` (so that `score.classifier` and `score.target` are there too), `image`
and `baseline` [H, W, C] in model space, `key` a random key of the photo and method, `size` rows and columns
of the map. A method that does not take `key` or `size` is not given it; one without `size` runs once a photo
and is measured at every size. It returns a `Heatmap`, an `Attribution`, anything with a `saliency`, or the
map [h, w] itself: any resolution, high = important.
"""


def _smooth_grad(score: ClassScore, image: Array, baseline: Array, *, key: Array) -> Any:
    return attributions.smooth_grad(score, image, key=key)


def _var_grad(score: ClassScore, image: Array, baseline: Array, *, key: Array) -> Any:
    return attributions.var_grad(score, image, key=key)


def _gradient(score: ClassScore, image: Array, baseline: Array) -> Any:
    return attributions.gradient(score, image)


def _input_x_gradient(score: ClassScore, image: Array, baseline: Array) -> Any:
    return attributions.input_x_gradient(score, image)


def _grad_cam(score: ClassScore, image: Array, baseline: Array) -> Any:
    return _at_own_resolution(attributions.grad_cam(score.classifier, image, score.target))


def _grad_cam_pp(score: ClassScore, image: Array, baseline: Array) -> Any:
    return _at_own_resolution(attributions.grad_cam_pp(score.classifier, image, score.target))


def _excitation_backprop(score: ClassScore, image: Array, baseline: Array) -> Any:
    return _at_own_resolution(attributions.excitation_backprop(score.classifier, image, score.target))


def _contrastive(score: ClassScore, image: Array, baseline: Array) -> Any:
    return _at_own_resolution(
        attributions.excitation_backprop(score.classifier, image, score.target, contrastive=True)
    )


def _at_own_resolution(found: attributions.Attribution) -> attributions.Attribution:
    """A class activation map before it is upsampled, so that a coarse size sees what was computed."""
    return found._replace(saliency=jax.nn.relu(found.attribution))


def _rise(score: ClassScore, image: Array, baseline: Array, *, key: Array) -> Any:
    return attributions.rise(score, image, key=key)  # what a mask hides is zero in model space, as published


def _occlusion(score: ClassScore, image: Array, baseline: Array) -> Any:
    window = max(1, min(image.shape[0], image.shape[1]) // 7)  # 32 of 224 pixels
    return attributions.occlusion(score, image, baseline, window=window)


def _extremal_perturbation(score: ClassScore, image: Array, baseline: Array) -> Any:
    return masks.extremal_perturbation(score, image, baseline)  # at its own 28 x 28, a tenth of the area


def random_map(score: ClassScore, image: Array, baseline: Array, *, key: Array, size: int) -> Array:
    """A control: numbers drawn at random, which a method must beat: [size, size]."""
    return jax.random.uniform(key, (size, size))


def edges(score: ClassScore, image: Array, baseline: Array) -> Array:
    """A control: the picture's edges, whatever the classifier has learned: [H, W].

    Length of the Sobel gradient, summed over channels. Looks convincing, and must fail every sanity check.
    """
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    along = padded[2:] - padded[:-2]
    across = across[:-2] + 2 * across[1:-1] + across[2:]
    along = along[:, :-2] + 2 * along[:, 1:-1] + along[:, 2:]
    return jnp.sum(jnp.sqrt(across**2 + along**2), axis=-1)


METHODS: dict[str, Method] = {
    "random": random_map,
    "edges": edges,
    "gradient": _gradient,
    "input_x_gradient": _input_x_gradient,
    "integrated_gradients": attributions.integrated_gradients,
    "smooth_grad": _smooth_grad,
    "var_grad": _var_grad,
    "grad_cam": _grad_cam,
    "grad_cam++": _grad_cam_pp,
    "excitation_backprop": _excitation_backprop,
    "contrastive_excitation": _contrastive,
    "rise": _rise,
    "occlusion": _occlusion,
    "meaningful_perturbation": masks.meaningful_perturbation,
    "extremal_perturbation": _extremal_perturbation,
    **masks.METHODS,
    **{f"igos++ {name}": ablation for name, ablation in masks.ABLATIONS.items() if name != "no noise"},
}
"""By name; "igos++ ..." are its ablations (it has no noise by default). Add your own by passing
`METHODS | {"mine": function}` to `jaxplain.compare.compare`."""

DEFAULT_METHODS = (
    "random",
    "edges",
    "gradient",
    "integrated_gradients",
    "smooth_grad",
    "grad_cam",
    "meaningful_perturbation",
    *masks.METHODS,
)


ABLATIONS = tuple(name for name in METHODS if name.startswith("igos++ "))


def expand(names: Iterable[str]) -> Iterator[str]:
    """Names, with "all" (all but ablations) and "ablations" (and iGOS++) replaced by what they stand for."""
    for name in names:
        if name == "all":
            yield from (one for one in METHODS if one not in ABLATIONS)
        elif name == "ablations":
            yield from ("igos++", *ABLATIONS)
        else:
            yield name


def choose_methods(names: Iterable[str], known: Mapping[str, Method] = METHODS) -> dict[str, Method]:
    """Methods by name, each once; see `expand` for names of several.

    Raises:
      ValueError: no name, or an unknown one; says which come nearest.
    """
    names = list(expand(names))
    chosen = {name: known[check_choice(name, known, "method")] for name in names}
    if not chosen:
        raise ValueError("methods must name at least one method.")
    return chosen
