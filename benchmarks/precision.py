"""What bfloat16 costs in quality and what recomputed activations save in memory, on this machine.

    python benchmarks/precision.py quality            # EfficientNet-Lite0 on six foolbox photos
    python benchmarks/precision.py memory             # of one backward pass, by network

Quality: the classifier in a lower precision against float32. Probabilities of the class that the file name
gives; iGOS++ (28 x 28) and gradient maps made with each; deletion and insertion of both measured with the
float32 classifier; rank correlation of the maps. Two float32 runs of one photo give the same map, so all
differences are the precision's.
Memory: what a forward pass leaves for the backward pass, read off the traced program; and the temporary bytes
that XLA plans for `value_and_grad` in the images: as it compiles by itself, and with the barriers kept that
part the second computation from the first. XLA's CPU backend takes them out and then merges the two.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import photos
from flax import nnx

import jaxplain as jx
from jaxplain.attributions import gradient
from jaxplain.metrics import rank_correlation
from jaxplain.precision import Rematerialized

MEBI = 2**20
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
NETWORKS = ("efficientnet-lite0", "resnet50")
MAPS = ("igos++", "gradient")
FIGURES = ("probability", "off", "deletion", "insertion", "rank")


def maps(score, image, baseline):
    """iGOS++'s mask turned to importance [28, 28], and the gradient's saliency [224, 224]."""
    return 1.0 - jx.igos_pp(score, image, baseline).mask, gradient(score, image).saliency


def measured(model, exact, path) -> list[dict]:
    """Both maps of a photo made with one model and measured with the exact one."""
    image = photos.squeezed(path, model)
    baseline = jx.blur_baseline(image)
    score, judge = (jx.class_score(one, photos.label(path)) for one in (model, exact))
    start = time.perf_counter()
    found = jax.block_until_ready(maps(score, image, baseline))
    seconds = time.perf_counter() - start  # of both maps; the first photo's with compilation
    rows = []
    for name, saliency in zip(MAPS, found, strict=True):
        curves = jx.insertion_deletion(judge, image, baseline, saliency)
        rows.append(
            {
                "photo": path.name,
                "map": name,
                "saliency": saliency,
                "probability": float(score(image[None])[0]),
                "deletion": float(curves.deletion_area),
                "insertion": float(curves.insertion_area),
                "seconds": seconds,
            }
        )
    return rows


def quality(options) -> list[dict]:
    exact = jx.zoo.load(options.model)
    models = {"float32": exact} | {name: jx.lower_precision(exact, name) for name in options.dtype}
    rows = []
    for path in photos.foolbox(photos.SIX)[: options.limit]:
        found = {dtype: measured(model, exact, path) for dtype, model in models.items()}
        for dtype, of_dtype in found.items():
            for row, reference in zip(of_dtype, found["float32"], strict=True):
                rank = rank_correlation(row["saliency"], reference["saliency"])
                off = abs(row["probability"] - reference["probability"])
                row |= {"dtype": dtype, "rank": float(rank), "off": off}
                rows.append(row)
                print(line(f"{row['photo']:28}", row), f"{row['seconds']:6.1f} s", flush=True)
    rows = [{key: value for key, value in row.items() if key != "saliency"} for row in rows]
    for dtype in models:
        for name in MAPS:
            chosen = [row for row in rows if (row["dtype"], row["map"]) == (dtype, name)]
            mean = {key: np.mean([row[key] for row in chosen]) for key in FIGURES}
            worst = max(row["off"] for row in chosen)
            print(line("mean", {"map": name, "dtype": dtype, **mean}), f"off by {worst:.4f} at most")
    return rows


def line(name: str, row: dict) -> str:
    figures = "  ".join(f"{key} {row[key]:.4f}" for key in FIGURES)
    return f"{name} {row['map']:9} {row['dtype']:9} {figures}"


def abstract(name: str) -> jx.zoo.ZooClassifier:
    """A network of the zoo without numbers: memory is a matter of shapes."""
    build = jx.zoo.MODELS[name].build
    return nnx.eval_shape(lambda: build(name, jx.zoo.imagenet_labels(), rngs=nnx.Rngs(0)))


def value_and_grad(model, images):
    return jax.value_and_grad(lambda images: model(images)[:, 0].sum())(images)


def kept(model, size: tuple[int, int]) -> float:
    """MiB an image that a forward pass leaves for the backward pass, on any platform."""

    def total(batch: int) -> int:
        images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)
        left = jax.eval_shape(lambda model, images: jax.vjp(model, images)[1], model, images)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree_util.tree_leaves(left))

    return (total(2) - total(1)) / MEBI  # without the parameters, which are there once


def memory(options) -> list[dict]:
    rows = []
    print(f"{jax.default_backend()}, MiB: kept an image; planned for {options.batch} (with barriers kept)")
    for name in options.network or NETWORKS:
        plain = abstract(name)
        low = jax.eval_shape(jx.lower_precision, plain)
        ways = {
            "float32": plain,
            "recomputed": jx.rematerialize(plain),
            "products kept": Rematerialized(plain),
        }
        ways |= {"bfloat16": low, "bfloat16, recomputed": jx.rematerialize(low)}
        images = jax.ShapeDtypeStruct((options.batch, *plain.spec.size, 3), jnp.float32)
        for way, model in ways.items():
            lowered = jax.jit(value_and_grad).lower(model, images)
            planned = [
                lowered.compile(compiler_options=flags).memory_analysis().temp_size_in_bytes / MEBI
                for flags in ({}, KEEP_BARRIERS)
            ]
            row = {"network": name, "way": way, "kept": kept(model, plain.spec.size), "planned": planned}
            rows.append(row)
            print(f"{name:20} {way:22} {row['kept']:6.1f}   {planned[0]:6.0f} ({planned[1]:.0f})", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("quality", "memory"))
    parser.add_argument("--model", default="efficientnet-lite0", help="of quality")
    parser.add_argument("--dtype", action="append", help="of quality; default: bfloat16")
    parser.add_argument("--limit", type=int, default=6, help="photos")
    parser.add_argument("--network", action="append", help="of memory; default: efficientnet-lite0, resnet50")
    parser.add_argument("--batch", type=int, default=8, help="images at a time, of memory")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    options.dtype = options.dtype or ["bfloat16"]
    rows = {"quality": quality, "memory": memory}[options.what](options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
