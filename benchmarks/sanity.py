"""Sanity and adversarial checks on real photos, with EfficientNet-Lite0.

    python benchmarks/sanity.py                              # eight foolbox photos
    python benchmarks/sanity.py --photos DIR --limit 10

Sanity: |rank correlation| of each method's map (28 x 28) with its map after all parameters were shuffled,
and with its map of a class drawn at random. A method passes the first where the mean is below 0.5; an edge
detector stays at 1 and fails. Adversarial: for photos that an attack (at most 6 of 255 in each number)
makes the model take for a class drawn at random, the share of the cells after which the insertion curve is
at half of its end: for the right class on the photo, and for the wrong one on the attacked photo, which
should be late.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import photos
from jaxplain.compare.program import at_size, takes

import jaxplain as jx
from jaxplain import compare, metrics

METHODS = ("random", "edges", "gradient", "smooth_grad", "grad_cam", "excitation_backprop", "igos", "igos++")
CHECKS = ("parameter_randomization", "target_randomization")
SIZE, EPSILON = 28, 0.047


def sanity(model, paths: list[Path]) -> None:
    settings = compare.Settings(CHECKS)
    methods = compare.choose_methods(METHODS)
    found = compare.compare(paths, [model], methods, sizes=(SIZE,), settings=settings)
    print("method                parameters shuffled   another class   photos")
    for one in compare.summarize(found.rows, CHECKS):
        cells = [one.measures[name] for name in CHECKS]
        shown = "   ".join(f"{cell.mean:.3f} [{cell.low:.2f}, {cell.high:.2f}]" for cell in cells)
        verdict = "passes" if cells[0].mean < 0.5 else "FAILS"
        print(f"{one.method:20} {shown}   {cells[0].images:3}   {verdict}", flush=True)


def adversarial(model, paths: list[Path]) -> None:
    print("method                clean rise   attacked rise   photos fooled")
    for name in METHODS[2:]:
        explain = explainer(compare.METHODS[name])
        rises = []
        for number, path in enumerate(paths):
            image = model.preprocess(jx.load_image(path))
            right = int(jx.top_class(model, image))
            wrong = (right + 1 + int(np.random.default_rng(number).integers(999))) % 1000
            found = metrics.adversarial_check(explain, model, image, right, wrong, epsilon=EPSILON)
            if bool(found.adversarial.fooled):
                rises.append((float(found.clean_rise), float(found.attacked_rise)))
        clean, attacked = np.nanmean(rises, axis=0)
        print(f"{name:20} {clean:10.3f} {attacked:15.3f} {len(rises):10} of {len(paths)}", flush=True)


def explainer(method: compare.Method) -> Callable[..., jax.Array]:
    """A method of the comparison as the check calls it, at SIZE."""

    def explain(score, image, baseline):
        given = {"key": jax.random.key(0)} if takes(method, "key") else {}
        given |= {"size": SIZE} if takes(method, "size") else {}
        found = method(score, image, baseline, **given)
        saliency = 1.0 - found.mask if hasattr(found, "mask") else getattr(found, "saliency", found)
        return jax.numpy.asarray(at_size(np.asarray(saliency), SIZE))

    return explain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--limit", type=int, default=8)
    options = parser.parse_args()
    paths = photos.foolbox() if options.photos is None else photos.folder(options.photos)
    model = jx.zoo.load("efficientnet-lite0")
    sanity(model, paths[: options.limit])
    adversarial(model, paths[: options.limit])


if __name__ == "__main__":
    main()
