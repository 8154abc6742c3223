"""Deletion and insertion of the mask methods on real photos, with EfficientNet-Lite0.

    python benchmarks/heatmaps.py                                    # six foolbox photos, all methods
    python benchmarks/heatmaps.py --photos DIR --limit 50            # a folder of CLASS_name.JPEG
    python benchmarks/heatmaps.py --method igos++ --preset paper --option noise=0

Masks of 28 x 28, blurred baseline, means over photos. The score is the softmax probability of the class that
the file name gives (foolbox's six, squeezed to 224 x 224) or of the top prediction (folders, with the model's
own preprocessing).
The published programs on the six: iGOS++ .1135 / .640 with 9,053 model evaluations, I-GOS .1006 / .638 with
2,360.
"""

import argparse
import ast
import json
import time
from pathlib import Path

import jax
import numpy as np
import photos

import jaxplain as jx
from jaxplain.masks import METHODS


def scenes(options, model):
    """(name, image, score) of each photo."""
    if options.photos is None:
        for path in photos.foolbox(photos.SIX):
            yield path.name, photos.squeezed(path, model), jx.class_score(model, photos.label(path))
        return
    for path in photos.folder(options.photos)[options.skip :: options.every][: options.limit]:
        image = model.preprocess(jx.load_image(path))
        yield path.name, image, jx.class_score(model, jx.top_class(model, image))


def measure(options, method: str, model) -> dict:
    settings = {"size": options.size, "preset": options.preset, **dict(map(parsed, options.option))}
    rows = []
    for number, (name, image, score) in enumerate(scenes(options, model)):
        baseline = jx.blur_baseline(image)
        start = time.perf_counter()
        key = jax.random.fold_in(jax.random.key(options.seed), number)
        heatmap = jax.block_until_ready(METHODS[method](score, image, baseline, key=key, **settings))
        seconds = time.perf_counter() - start
        curves = jx.insertion_deletion(score, image, baseline, 1.0 - heatmap.mask)
        rows.append(
            {
                "photo": name,
                "deletion": float(curves.deletion_area),
                "insertion": float(curves.insertion_area),
                "evaluations": int(heatmap.evaluations),
                "seconds": seconds,
            }
        )
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "photo"}
    means["seconds"] = float(np.median([row["seconds"] for row in rows]))  # the first one compiles
    return {"method": method, "settings": {k: str(v) for k, v in settings.items()}, **means, "rows": rows}


def parsed(text: str) -> tuple[str, object]:
    """ "l1=0.3" -> ("l1", 0.3); "descent=jx.masks.Nesterov(100)" is evaluated."""
    name, value = text.split("=", 1)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, eval(value, {"jx": jx}) if "(" in value else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", action="append", choices=list(METHODS))
    parser.add_argument("--preset", default="default")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first photos of the folder")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    model = jx.zoo.load("efficientnet-lite0")
    print("method   deletion  insertion  evaluations  seconds (median)")
    results = []
    for method in options.method or list(METHODS):
        found = measure(options, method, model)
        results.append(found)
        print(
            f"{method:8} {found['deletion']:8.4f}  {found['insertion']:9.4f}  {found['evaluations']:11.0f}  "
            f"{found['seconds']:7.1f}   over {len(found['rows'])} photos",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
