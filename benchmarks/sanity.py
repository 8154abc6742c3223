"""Sanity and adversarial checks of methods on real photos, with EfficientNet-Lite0.

    python benchmarks/sanity.py                              # eight foolbox photos
    python benchmarks/sanity.py --photos DIR --limit 10

Sanity: absolute rank correlation of each method's map (28 x 28) with its map after all parameters were
shuffled, and with its map of a random other class. A method passes the first check if the mean is below 0.5;
an edge detector stays at 1 and fails.

Adversarial: for photos that an attack (at most 6 of 255 per value) changes to be classified as a random other
class, the share of the cells at which the insertion curve reaches half of its final value: for the right
class on the photo, and for the wrong class on the attacked photo, where it should be late.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import jax
import numpy as np

import jaxplain as jx
from jaxplain import metrics
from jaxplain.methods import METHODS, apply
from jaxplain.perturb import resize_map
from jaxplain.runs.compare import CompareSettings, compare
from jaxplain.runs.summary import summarize_rows

CHOSEN = ("random", "edges", "gradient", "smooth-grad", "grad-cam", "excitation-backprop", "igos", "igos++")
CONTROLS = ("random", "edges")
CHECKS = ("parameter_randomization", "target_randomization")
SIZE, EPSILON = 28, 0.047


def sanity(model: jx.zoo.ZooClassifier, paths: list[Path], methods: list[str]) -> list[Any]:
    comparison = compare(paths, [model], methods, sizes=(SIZE,), settings=CompareSettings(CHECKS))
    summaries = summarize_rows(comparison.rows, CHECKS)
    print("method                parameters shuffled   other class   photos")
    for summary in summaries:
        intervals = [summary.measures[name] for name in CHECKS]
        cells = "   ".join(f"{one.mean:.3f} [{one.low:.2f}, {one.high:.2f}]" for one in intervals)
        verdict = "passes" if intervals[0].mean < 0.5 else "FAILS"
        print(f"{summary.method:20} {cells}   {intervals[0].images:3}   {verdict}", flush=True)
    return [{"method": summary.method, **summary.measures} for summary in summaries]


def adversarial(model: jx.zoo.ZooClassifier, paths: list[Path], methods: list[str]) -> list[dict[str, Any]]:
    rows = []
    print("method                clean rise   attacked rise   photos fooled")
    for name in methods:
        rises = []
        for number, path in enumerate(paths):
            image = harness.cropped(path, model)
            right = int(jx.top_class(model, image))
            wrong = (right + 1 + int(np.random.default_rng(number).integers(999))) % 1000
            check = metrics.adversarial_check(
                jx.class_score(model, right), image, None, at_common_size(name), wrong,
                key=jax.random.key(0), epsilon=EPSILON,
            )  # fmt: skip
            if bool(check.adversarial.fooled):
                rises.append((float(check.clean_rise), float(check.attacked_rise)))
        clean, attacked = np.nanmean(rises, axis=0) if rises else (np.nan, np.nan)
        rows.append({"method": name, "clean": clean, "attacked": attacked, "fooled": len(rises)})
        print(f"{name:20} {clean:10.3f} {attacked:15.3f} {len(rises):10} of {len(paths)}", flush=True)
    return rows


def at_common_size(name: str) -> Callable[..., jax.Array]:
    """Return a method of the registry whose maps are [SIZE, SIZE]."""

    @jax.jit
    def explain(score: Any, image: jax.Array, baseline: jax.Array, *, key: jax.Array) -> jax.Array:
        explanation = apply(METHODS[name], score, image, baseline, key=key, options={"size": SIZE})
        return resize_map(explanation.importance, (SIZE, SIZE))

    return explain


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--method", nargs="+", choices=CHOSEN, default=CHOSEN)
    parser.set_defaults(limit=8)
    options = parser.parse_args()
    model, paths = jx.zoo.load("efficientnet-lite0"), harness.chosen_photos(options)
    attacked = [name for name in options.method if name not in CONTROLS]
    results = {
        "sanity": sanity(model, paths, options.method),
        "adversarial": adversarial(model, paths, attacked),
    }
    harness.save(options, results)


if __name__ == "__main__":
    main()
