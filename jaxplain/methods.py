"""The registry of methods: what `explain`, `compare`, `batch` and `report` can run, by shell-safe names."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain import attributions, masks
from jaxplain.checks import check_choice
from jaxplain.explanation import Explanation, call_method, finished
from jaxplain.explanation import takes as takes


class MethodSpec(NamedTuple):
    """A method as the registry lists it."""

    function: Callable[..., Any]  # a `jaxplain.explanation.Method`
    title: str  # as tables and pages write it
    description: str  # one line for people
    reference: str = ""
    uses_baseline: bool = True  # False: runs do not pass their baseline, the method's own default applies


def _old(
    function: Callable[..., Any], needs: str = "sbk"
) -> Callable[..., Any]:  # TRANSITIONAL: goes when families are merged
    import jax

    def method(
        score: Any,
        image: Array,
        baseline: Array | None = None,
        *,
        key: Any = None,
        batch_size: int | None = None,
        size: int = 28,
    ) -> Explanation:
        given: dict[str, Any] = {"key": key} if "k" in needs else {}
        given |= {"size": size} if "z" in needs else {}
        first = (score,) if "s" in needs else (score.classifier,)
        second = (baseline,) if "b" in needs else () if "s" in needs else (score.target,)
        found = function(*first, image, *second, **given)
        if hasattr(found, "mask"):
            return Explanation(1.0 - found.mask, found.status, found.evaluations, found)
        if not hasattr(found, "status"):
            return finished(found, jnp.zeros(()), 0)
        shown = found.saliency if "s" in needs else jax.nn.relu(found.attribution)
        return Explanation(shown, found.status, found.evaluations, found)

    return method


METHODS: dict[str, MethodSpec] = {
    "gradient": MethodSpec(
        _old(attributions.gradient, "s"), "Gradient", "How fast the score changes with each pixel."
    ),
    "integrated-gradients": MethodSpec(
        _old(attributions.integrated_gradients, "sb"),
        "Integrated gradients",
        "Shares out the score difference.",
    ),
    "smooth-grad": MethodSpec(
        _old(attributions.smooth_grad, "sk"), "SmoothGrad", "Mean gradient over noisy copies."
    ),
    "grad-cam": MethodSpec(_old(attributions.grad_cam, "c"), "Grad-CAM", "Weighted feature maps."),
    "occlusion": MethodSpec(
        _old(attributions.occlusion, "sb"), "Occlusion", "Drop of the score under a moving window."
    ),
    "igos": MethodSpec(_old(masks.igos, "sbkz"), "I-GOS", "Smallest mask whose removal destroys the score."),
    "igos++": MethodSpec(_old(masks.igos_pp, "sbkz"), "iGOS++", "Masks for deletion and insertion together."),
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
    """Explain one image with a method of the registry or a user's own; traced by JAX.

    Options that the method's signature does not have are not passed to it. A method of your own may return a
    bare map [h, w] instead of an `Explanation`; its cost is then unknown (-1).

    Raises:
      ValueError, TypeError: whatever the method raises; a result that is not one map.
    """
    spec = as_spec(method)
    baseline_or_default = baseline if spec.uses_baseline else None
    found = call_method(spec.function, score, image, baseline_or_default, key=key, options=options)
    if found.importance.ndim != 2:
        raise ValueError(f"a method must return one map [h, w], got shape {found.importance.shape}.")
    return found._replace(importance=found.importance.astype(jnp.float32))


def as_spec(method: "MethodSpec | Callable[..., Any]", name: str = "") -> MethodSpec:
    """Return an entry of the registry as it is, and wrap a function of your own."""
    if isinstance(method, MethodSpec):
        return method
    if not callable(method):
        raise TypeError(f"a method must be a function (score, image, baseline, ...), got {method!r}.")
    return MethodSpec(method, name or getattr(method, "__name__", "method"), "A method of your own.")


def parameters(method: "MethodSpec | Callable[..., Any]", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of a method: those given, and the defaults of its signature. For records.

    Raises:
      ValueError: an option that the method does not have; suggests the nearest ones.
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
    """Return methods by name, each once; "all" stands for all but ablations, "ablations" for iGOS++ and its own.

    Raises:
      ValueError: no name, or an unknown one; suggests the nearest ones.
    """
    groups = {
        "all": [name for name in known if not name.startswith(ABLATION)],
        "ablations": ["igos++", *(name for name in known if name.startswith(ABLATION))],
    }
    expanded = [one for name in names for one in groups.get(name, [name])]
    chosen = {name: known[check_choice(name, known, "method")] for name in expanded}
    if not chosen:
        raise ValueError("methods must name at least one method.")
    return chosen


ABLATION = "igos++-"  # prefix of the names of iGOS++ with one part left out or replaced
