"""Deletion and insertion AUC of the mask methods on real photos, with EfficientNet-Lite0.

    python benchmarks/heatmaps.py                                    # six foolbox photos, all methods
    python benchmarks/heatmaps.py --photos DIR --limit 50            # a folder of CLASS_name.JPEG
    python benchmarks/heatmaps.py --method igos++ --paper --option noise=0

Masks of 28 x 28, blurred baseline, means over photos. The score is the softmax probability of the class in
the file name (foolbox's six photos, squeezed to 224 x 224) or of the top prediction (folders, with the
model's own preprocessing).

The published programs on the six photos: iGOS++ .1135 / .640 with 9,053 model evaluations, I-GOS .1006 / .638
with 2,360.
"""

import argparse
import ast
from typing import Any

import harness
import jax
import numpy as np

import jaxplain as jx
from jaxplain.methods import METHODS, choose, parameters

MASK_METHODS = tuple(name for name in METHODS if name.startswith("igos") or name == "meaningful-perturbation")


def measure(options: argparse.Namespace, method: str, model: jx.zoo.ZooClassifier) -> dict[str, Any]:
    """Explain all photos with one method; return means over photos, and the rows."""
    published = jx.masks.PAPER[method] if options.paper else {}
    settings = {"size": options.size, **published, **dict(options.option)}
    parameters(METHODS[method], settings)  # refuses unknown options
    six = None if options.photos else harness.foolbox(harness.SIX)
    rows = []
    for number, path in enumerate(harness.chosen_photos(options, six)):
        image = harness.cropped(path, model) if options.photos else harness.squeezed(path, model)
        target = jx.top_class(model, image) if options.photos else harness.label(path)
        score, baseline = jx.class_score(model, target), jx.blur_baseline(image)
        key = jax.random.fold_in(jax.random.key(options.seed), number)
        explanation, seconds = harness.timed(
            lambda key=key, args=(score, image, baseline): METHODS[method].function(
                *args, key=key, **settings
            )
        )
        curves = jx.insertion_deletion(score, image, baseline, explanation.importance)
        rows.append(
            {
                "photo": path.name,
                "deletion_auc": float(curves.deletion_auc),
                "insertion_auc": float(curves.insertion_auc),
                "evaluations": int(explanation.evaluations),
                "seconds": seconds,
            }
        )
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "photo"}
    means["seconds"] = float(np.median([row["seconds"] for row in rows]))  # the first one compiles
    return {"method": method, "settings": {k: str(v) for k, v in settings.items()}, **means, "rows": rows}


def named_value(text: str) -> tuple[str, Any]:
    """Parse an option: "l1=0.3" -> ("l1", 0.3); "descent=jx.masks.Nesterov(100)" is evaluated."""
    name, value = text.split("=", 1)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, eval(value, {"jx": jx}) if "(" in value else value


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--method", nargs="+", metavar="NAME", help="; ".join(MASK_METHODS))
    parser.add_argument("--paper", action="store_true", help="use the published options")
    parser.add_argument("--size", type=int, default=28, help="rows and columns of the masks")
    parser.add_argument("--option", nargs="+", type=named_value, default=[], metavar="NAME=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = jx.zoo.load("efficientnet-lite0")
    methods = choose(options.method or (jx.masks.PAPER if options.paper else MASK_METHODS))
    width = max(map(len, methods))
    print(f"{'method':{width}}  deletion  insertion  evaluations  seconds (median)")
    results = []
    for method in methods:
        result = measure(options, method, model)
        results.append(result)
        print(
            f"{method:{width}} {result['deletion_auc']:9.4f}  {result['insertion_auc']:9.4f}  "
            f"{result['evaluations']:11.0f}  {result['seconds']:7.1f}   over {len(result['rows'])} photos",
            flush=True,
        )
    harness.save(options, results)


if __name__ == "__main__":
    main()
