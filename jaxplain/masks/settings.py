"""What the recipes can be told, and the presets that fill in the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import optax
from jax import Array

from jaxplain.checks import check_choice, check_positive_int
from jaxplain.masks.descent import BestStep, Descent, LineSearch, Optax


@dataclass(frozen=True)
class Settings:
    """Everything a preset decides."""

    iterations: int
    steps: int
    rule: str
    search: str
    descent: Descent
    l1: Callable[[int], float]  # of the mask's longer side
    l2: Callable[[int], float]  # of the same
    noise: float
    score_weight: float
    deletion: float = 1.0
    insertion: float = 1.0
    sigma: float = 0.01
    rescue: bool = False
    jitter: float = 0.0


class Options(TypedDict, total=False):
    """What every recipe takes besides score, image and baseline; what is left out comes from the preset.

    Static (a new value compiles anew): size, preset, iterations, steps, rule, search, rescue, batch_size.
    Numbers (may be traced, so a sweep is one `jax.vmap`): l1, l2, noise, score_weight, deletion, insertion,
    jitter, sigma, and the fields of `descent`.
    """

    key: Array | None  # for path noise and jitter; consumed. Needed unless both are 0
    size: int | tuple[int, int]  # mask rows and columns, up to the image's; 28
    preset: str  # "default" or "paper"
    iterations: int
    steps: int  # nodes along the integration path
    rule: str  # "riemann", "midpoint", "gauss_legendre"
    search: str  # where candidate masks are measured: "endpoint", "path", "gradient"; see `engine.SEARCHES`
    descent: Descent  # LineSearch, BestStep, FixedStep, Nesterov, Optax
    l1: float | Array  # weight of the mask's size
    l2: float | Array  # weight of its roughness
    noise: float | Array  # standard deviation along the path, model space
    score_weight: float | Array  # of the score terms against the penalties in the gradient
    deletion: float | Array  # weight of the deletion terms
    insertion: float | Array  # weight of the insertion terms
    jitter: float | Array  # largest random shift of the picture under the mask, whole pixels
    sigma: float | Array  # of the bilateral weights
    rescue: bool  # I-GOS's rescue: a smaller l1 for a score that hardly moves
    init: Array | None  # [h, w] starting mask; all ones when None. See `diverse_init`
    batch_size: int | None  # images per model call; None chooses by platform


def _paper_l1(side: int) -> float:
    return 10.0 if side >= 224 else 1.0


def _roughness(at_224: float) -> Callable[[int], float]:
    """A weight of the roughness that grows with the side of the mask.

    A mean over neighbours counts the edge of what is masked, whose share of all neighbours falls as 1 / side.
    """
    return lambda side: at_224 * side / 224


_PAPER = Settings(
    iterations=15,
    steps=20,
    rule="riemann",
    search="path",
    descent=LineSearch(),
    l1=_paper_l1,
    l2=lambda side: 20.0,
    noise=0.2,
    score_weight=1.0,
)
# Chosen by deletion and insertion on real photos (benchmarks/heatmaps.py), EfficientNet-Lite0, 28 x 28.
# There, noise along the path made both measures worse, and candidates measured at the end of the path, at a
# third of the cost, were good enough.
_MEASURED = Settings(
    iterations=8,
    steps=3,
    rule="gauss_legendre",
    search="endpoint",
    descent=BestStep(),
    l1=lambda side: 1.0,
    l2=_roughness(20.0),
    noise=0.0,
    score_weight=1.0,
    deletion=2.0,
)
# One node at the path's end: no integration. The loss comes with the next gradient, which saves the forward
# pass of measuring it. The optimiser is made once, or every call would compile anew.
_MEANINGFUL = Settings(
    iterations=300,
    steps=1,
    rule="riemann",
    search="gradient",
    descent=Optax(optax.adam(0.1)),
    l1=lambda side: 0.01,
    l2=lambda side: 0.2,
    noise=0.0,
    score_weight=1.0,
)
PRESETS: dict[str, dict[str, Settings]] = {
    "igos": {
        "default": replace(_MEASURED, iterations=15, steps=5, l1=lambda side: 0.1, l2=_roughness(20.0)),
        "paper": _PAPER,
    },
    "igos+": {"default": replace(_MEASURED, iterations=10), "paper": _PAPER},
    "igos++": {
        "default": replace(_MEASURED, score_weight=0.5),
        "paper": replace(_PAPER, score_weight=0.5),
    },
    "meaningful perturbation": {"default": _MEANINGFUL, "paper": _MEANINGFUL},
}


def mask_shape(size: int | tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of a mask from one side or both."""
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be one whole number or (rows, columns), got {size!r}.")
    return check_positive_int(sides[0], "size"), check_positive_int(sides[1], "size")


def parameters(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a method after its preset has filled in what the options leave out.

    What a saved result should record. Everything but `key` and `init`.

    Raises:
      ValueError: unknown method, preset or option.
    """
    check_choice(method, PRESETS, "method")
    for name in options:
        check_choice(name, Options.__annotations__, "option")
    shape = mask_shape(options.get("size", 28))
    name = check_choice(options.get("preset", "default"), PRESETS[method], "preset")
    preset = PRESETS[method][name]
    filled = {field.name: getattr(preset, field.name) for field in fields(Settings)}
    filled |= {name: filled[name](max(shape)) for name in ("l1", "l2")}
    filled |= {k: v for k, v in options.items() if k not in ("key", "init")}
    return filled | {"size": shape, "preset": name}
