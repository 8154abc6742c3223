"""Completeness of integrated gradients: how far the attributions' sum is from the difference of the scores.

    python benchmarks/completeness.py                        # foolbox's 20 photos, 64 steps
    python benchmarks/completeness.py --steps 1024 --limit 4 # what is left is rounding

EfficientNet-Lite0, each photo's top class; baselines: blurred, grey (zero in model space, the mean colour)
and black. Relative error of each rule in per cent, mean / median / worst over the photos whose two scores
differ by at least 0.05. The adaptive rule also scores the path without a gradient; its cost as the others
count theirs, a forward pass being a third of a forward and backward one, is in the table, and the midpoint
rule is shown once more with as many steps as the same cost buys.
"""

import argparse
import itertools
from collections import defaultdict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import photos

import jaxplain as jx
from jaxplain import attributions

RULES = ("riemann", "midpoint", "gauss_legendre", "adaptive")
KINDS = ("probability", "logit")
LEAST = 0.05  # of the difference: below it a relative error says little
FORWARD = 1 / 3  # of a forward and backward pass

Setting = tuple[str, int]  # rule, steps


def cost(rule: str, steps: int) -> float:
    """Of one explanation, in forward and backward passes, the scores of the two ends apart."""
    if rule != "adaptive":
        return float(steps)
    found = attributions.integrated_gradients(
        lambda images: images.sum((1, 2, 3)), jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1)), n_steps=steps
    )
    return steps + FORWARD * (int(found.evaluations) - steps - 2)


def baselines(model: jx.zoo.ZooClassifier, image) -> dict:
    """By name."""
    return {
        "blur": jx.blur_baseline(image),
        "grey": jnp.zeros_like(image),
        "black": model.normalize(jnp.zeros_like(image)),
    }


def measure(model, path: Path, settings: list[Setting], names: list[str]) -> dict[tuple, float]:
    """Relative errors on one photo by (rule, steps, baseline, kind)."""
    image = photos.squeezed(path, model)
    target = jx.top_class(model, image)
    known = baselines(model, image)
    errors = {}
    for name, kind in itertools.product(names, KINDS):
        score = jx.class_score(model, target, kind)
        first, last = (float(score(one[None])[0]) for one in (known[name], image))
        if abs(last - first) < LEAST:
            continue
        for rule, steps in settings:
            found = attributions.integrated_gradients(score, image, known[name], n_steps=steps, rule=rule)
            errors[rule, steps, name, kind] = float(found.error)
    return errors


def show(errors: dict[tuple, list[float]]) -> None:
    """The table, in the order measured."""
    print("rule             steps   cost   baseline   score           mean   median    worst   photos")
    for rule, steps, name, kind in sorted(errors, key=lambda key: key[2:]):
        found = 100 * np.array(errors[rule, steps, name, kind])
        print(
            f"{rule:15} {steps:6} {cost(rule, steps):6.1f}   {name:8}   {kind:11} {found.mean():8.2f} "
            f"{np.median(found):8.2f} {found.max():8.2f}   {len(found):6}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--limit", type=int, help="photos, from the first")
    parser.add_argument("--rule", action="append", choices=RULES)
    parser.add_argument("--baseline", action="append", choices=("blur", "grey", "black"))
    options = parser.parse_args()
    settings = [(rule, options.steps) for rule in options.rule or RULES]
    names = options.baseline or ["blur", "grey", "black"]
    if {("adaptive", options.steps), ("midpoint", options.steps)} <= set(settings):
        settings.append(("midpoint", round(cost("adaptive", options.steps))))
    model = jx.zoo.load("efficientnet-lite0")
    errors = defaultdict(list)
    for path in photos.foolbox()[: options.limit]:
        found = measure(model, path, settings, names)
        for key, error in found.items():
            errors[key].append(error)
        print(path.name, *(f"{100 * error:.2f}" for error in found.values()), flush=True)
    show(errors)


if __name__ == "__main__":
    main()
