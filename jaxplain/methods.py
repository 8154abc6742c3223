"""The registry of methods for `explain`, `compare`, `batch` and `report`, keyed by shell-safe name."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain import attributions, masks
from jaxplain.checks import check_choice
from jaxplain.explanation import Explanation, call_method
from jaxplain.explanation import takes as takes


class MethodSpec(NamedTuple):
    """A method's entry in the registry."""

    function: Callable[..., Any]  # a `jaxplain.explanation.Method`
    title: str  # display name for tables and pages
    description: str  # one-line description
    reference: str = ""
    uses_baseline: bool = True  # if False, runs pass no baseline, and the method uses its own default


_IGOS_PP_PAPER = "Khorram, Lawson, Fuxin. ACM CHIL 2021"
METHODS: dict[str, MethodSpec] = {
    "random": MethodSpec(
        attributions.random_map, "Random numbers", "Control: random numbers, which every method must beat."
    ),
    "edges": MethodSpec(
        attributions.edges,
        "Edge detector",
        "Control: the edges of the image, independent of what the model has learned.",
        "Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018.",
    ),
    "gradient": MethodSpec(
        attributions.gradient,
        "Gradient",
        "How strongly the score reacts to a small change in each pixel.",
        "Simonyan, Vedaldi, Zisserman. Deep Inside Convolutional Networks. ICLR workshop 2014.",
    ),
    "input-x-gradient": MethodSpec(
        attributions.input_x_gradient,
        "Input x gradient",
        "The gradient times the pixel's value: a linear approximation of its contribution to the score.",
        "Shrikumar, Greenside, Shcherbina, Kundaje. Not Just a Black Box. arXiv:1605.01713, 2016.",
    ),
    "integrated-gradients": MethodSpec(
        attributions.integrated_gradients,
        "Integrated gradients",
        "The score difference between image and baseline, distributed over the pixels by the gradients along "
        "the path.",
        "Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017.",
    ),
    "smooth-grad": MethodSpec(
        attributions.smooth_grad,
        "SmoothGrad",
        "The mean gradient over noisy copies of the image.",
        "Smilkov et al. SmoothGrad: removing noise by adding noise. arXiv:1706.03825, 2017.",
    ),
    "var-grad": MethodSpec(
        attributions.var_grad,
        "VarGrad",
        "The variance of the gradient over noisy copies of the image.",
        "Adebayo, Gilmer, Goodfellow, Kim. Local Explanation Methods for Deep Neural Networks Lack "
        "Sensitivity to Parameter Values. ICLR workshop 2018.",
    ),
    "grad-cam": MethodSpec(
        attributions.grad_cam,
        "Grad-CAM",
        "Regions where the features from the last convolution raise the class score; coarse.",
        "Selvaraju et al. Grad-CAM. ICCV 2017.",
    ),
    "grad-cam++": MethodSpec(
        attributions.grad_cam_pp,
        "Grad-CAM++",
        "Like Grad-CAM, but with weights that show several objects of the class equally well.",
        "Chattopadhay et al. Grad-CAM++. WACV 2018.",
    ),
    "excitation-backprop": MethodSpec(
        attributions.excitation_backprop,
        "Excitation backprop",
        "The evidence for the class, traced back through the network to its source in the image.",
        "Zhang et al. Top-down Neural Attention by Excitation Backprop. IJCV 2018.",
    ),
    "contrastive-excitation-backprop": MethodSpec(
        attributions.contrastive_excitation_backprop,
        "Contrastive excitation backprop",
        "The evidence for the class minus the evidence against it, traced back through the network.",
        "Zhang et al. Top-down Neural Attention by Excitation Backprop. IJCV 2018.",
    ),
    "rise": MethodSpec(
        attributions.rise,
        "RISE",
        "The mean score over randomly masked images in which the pixel is visible.",
        "Petsiuk, Das, Saenko. RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC "
        "2018.",
        uses_baseline=False,  # as published, hidden pixels are zero in model space
    ),
    "occlusion": MethodSpec(
        attributions.occlusion,
        "Occlusion",
        "How much the score drops when a window hides the pixel.",
        "Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014.",
    ),
    "igos": MethodSpec(
        masks.igos,
        "I-GOS",
        "The smallest smooth mask whose removal destroys the score.",
        "Qi, Khorram, Fuxin. AAAI 2020",
    ),
    "igos+": MethodSpec(
        masks.igos_plus,
        "iGOS+",
        "One mask whose removal destroys the score and whose content alone restores it.",
        _IGOS_PP_PAPER,
    ),
    "igos++": MethodSpec(
        masks.igos_pp,
        "iGOS++",
        "A mask for deletion and a mask for insertion, optimized together.",
        _IGOS_PP_PAPER,
    ),
    "meaningful-perturbation": MethodSpec(
        masks.meaningful_perturbation,
        "Meaningful perturbation",
        "The smallest smooth mask whose removal destroys the score, without integrated gradients.",
        "Fong, Vedaldi. ICCV 2017",
    ),
    "extremal-perturbation": MethodSpec(
        masks.extremal_perturbation,
        "Extremal perturbation",
        "The smooth mask of fixed area that best preserves the score.",
        "Fong, Patrick, Vedaldi. ICCV 2019",
    ),
    **{
        f"igos++-{name}": MethodSpec(masks.ABLATIONS[name], f"iGOS++, {title}", description, _IGOS_PP_PAPER)
        for name, title, description in (
            ("insertion-only", "insertion only", "iGOS++ with one mask and the insertion term alone."),
            ("deletion-only", "deletion only", "iGOS++ with one mask and the deletion term alone."),
            ("naive-sum", "naive sum", "iGOS++ with one mask for both terms."),
            ("with-noise", "with noise", "iGOS++ with noise along the integration path."),
            ("no-noise", "no noise", "iGOS++ without noise along the integration path."),
            ("fixed-step", "fixed step", "iGOS++ without a line search for the step size."),
            ("no-btv", "no BTV", "iGOS++ without the smoothness penalty."),
        )
    },
}


def apply(
    method: "MethodSpec | Callable[..., Any]",
    score: Any,
    image: Array,
    baseline: Array,
    *,
    key: Array,
    options: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain one image with a registered or custom method, inside a JAX trace.

    Options that are not in the method's signature are not passed to the method. A custom method may return a
    bare map [h, w] instead of an `Explanation`; the number of evaluations is then unknown (-1).

    Raises:
      ValueError, TypeError: raised by the method, or the result is not a single map.
    """
    spec = as_spec(method)
    baseline_or_default = baseline if spec.uses_baseline else None
    explanation = call_method(spec.function, score, image, baseline_or_default, key=key, options=options)
    if explanation.importance.ndim != 2:
        raise ValueError(f"a method must return one map [h, w], got shape {explanation.importance.shape}.")
    return explanation._replace(importance=explanation.importance.astype(jnp.float32))


def as_spec(method: "MethodSpec | Callable[..., Any]", name: str = "") -> MethodSpec:
    """Return a `MethodSpec` unchanged, or wrap a custom function in one."""
    if isinstance(method, MethodSpec):
        return method
    if not callable(method):
        raise TypeError(f"a method must be a function (score, image, baseline, ...), got {method!r}.")
    return MethodSpec(method, name or getattr(method, "__name__", "method"), "Custom method.")


def parameters(method: "MethodSpec | Callable[..., Any]", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of a method's options, with defaults filled in, to record them with the results.

    Raises:
      ValueError: the method has no such option; the message suggests similar names.
    """
    signature = inspect.signature(as_spec(method).function).parameters
    keywords = {
        name: parameter.default
        for name, parameter in signature.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in ("key", "batch_size", "init")
    }
    for name in options:
        if name not in ("batch_size",):
            check_choice(name, keywords, "option")
    return keywords | dict(options)


def choose(names: Iterable[str], known: Mapping[str, MethodSpec] = METHODS) -> dict[str, MethodSpec]:
    """Look up methods by name, without duplicates.

    "all" selects all methods except ablations; "ablations" selects iGOS++ and its ablations.

    Raises:
      ValueError: no names, or an unknown name; the message suggests similar names.
    """
    groups = {
        "all": [name for name in known if not name.startswith(ABLATION)],
        "ablations": ["igos++", *(name for name in known if name.startswith(ABLATION))],
    }
    expanded = [member for name in names for member in groups.get(name, [name])]
    chosen = {name: known[check_choice(name, known, "method")] for name in expanded}
    if not chosen:
        raise ValueError("methods must name at least one method.")
    return chosen


ABLATION = "igos++-"  # name prefix for variants of iGOS++ with one component removed or replaced
