"""Completeness of integrated gradients: relative error of the attributions' sum as the score difference.

    python benchmarks/completeness.py                        # foolbox's 20 photos, 64 steps
    python benchmarks/completeness.py --steps 1024 --limit 4 # the remaining error is rounding

EfficientNet-Lite0, the top class of each photo; baselines: blurred, grey (zero in model space, the mean
colour) and black. Relative error of each rule in percent: mean, median and maximum over the photos whose two
scores differ by at least 0.05. Costs are in forward and backward passes, apart from the scores of the two
ends. The adaptive rule also scores points on the path without a gradient, at a third of a forward and
backward pass each; the midpoint rule is shown a second time with as many steps as that total allows.
"""

import itertools
from collections import defaultdict
from pathlib import Path

import harness
import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain.attributions import integrated_gradients

RULES = ("riemann", "midpoint", "gauss_legendre", "adaptive")
BASELINES = ("blur", "grey", "black")
KINDS = ("probability", "logit")
LEAST_DIFFERENCE = 0.05  # of the two scores; below it a relative error means little
FORWARD = 1 / 3  # cost of a forward pass relative to a forward and backward pass

Setting = tuple[str, int]  # rule, steps
Measurement = tuple[str, int, str, str]  # rule, steps, baseline, kind of score


def cost(rule: str, steps: int) -> float:
    """Return the cost of one explanation in forward and backward passes."""
    if rule != "adaptive":
        return float(steps)
    pixel = jnp.ones((1, 1, 1))
    explanation = integrated_gradients(
        lambda images: images.sum((1, 2, 3)), pixel, jnp.zeros_like(pixel), n_steps=steps
    )
    return steps + FORWARD * (int(explanation.evaluations) - steps - 2)


def make_baseline(name: str, model: jx.zoo.ZooClassifier, image: jax.Array) -> jax.Array:
    if name == "blur":
        return jx.blur_baseline(image)
    black = jnp.zeros_like(image)
    return model.normalize(black) if name == "black" else black


def measure(
    model: jx.zoo.ZooClassifier, path: Path, settings: list[Setting], baselines: list[str]
) -> dict[Measurement, float]:
    """Return the relative errors on one photo."""
    image = harness.squeezed(path, model)
    target = jx.top_class(model, image)
    errors = {}
    for name, kind in itertools.product(baselines, KINDS):
        score, baseline = jx.class_score(model, target, kind), make_baseline(name, model, image)
        if abs(float(score(image[None])[0] - score(baseline[None])[0])) < LEAST_DIFFERENCE:
            continue
        for rule, steps in settings:
            explanation = integrated_gradients(score, image, baseline, n_steps=steps, rule=rule)
            errors[rule, steps, name, kind] = float(explanation.details.completeness_error)
    return errors


def summarize(errors: dict[Measurement, list[float]]) -> list[dict]:
    """Print the table, sorted by baseline and score."""
    rows = []
    print("rule             steps   cost   baseline   score           mean   median  maximum   photos")
    for rule, steps, baseline, kind in sorted(errors, key=lambda measurement: measurement[2:]):
        percent = 100 * np.array(errors[rule, steps, baseline, kind])
        row = {"rule": rule, "steps": steps, "cost": cost(rule, steps), "baseline": baseline, "score": kind}
        row |= {"mean": percent.mean(), "median": np.median(percent), "maximum": percent.max()}
        rows.append(row | {"photos": len(percent)})
        print(
            "{rule:15} {steps:6} {cost:6.1f}   {baseline:8}   {score:11} {mean:8.2f} {median:8.2f} "
            "{maximum:8.2f}   {photos:6}".format(**rows[-1])
        )
    return rows


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rule", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--baseline", nargs="+", choices=BASELINES, default=BASELINES)
    options = parser.parse_args()
    settings = [(rule, options.steps) for rule in options.rule]
    if {"adaptive", "midpoint"} <= set(options.rule):
        settings.append(("midpoint", round(cost("adaptive", options.steps))))
    model = jx.zoo.load("efficientnet-lite0")
    errors: dict[Measurement, list[float]] = defaultdict(list)
    for path in harness.chosen_photos(options):
        measured = measure(model, path, settings, options.baseline)
        for measurement, error in measured.items():
            errors[measurement].append(error)
        print(path.name, *(f"{100 * error:.2f}" for error in measured.values()), flush=True)
    harness.save(options, summarize(errors))


if __name__ == "__main__":
    main()
