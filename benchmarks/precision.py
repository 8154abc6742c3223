"""Quality in bfloat16, and memory with recomputed activations, on this machine.

    python benchmarks/precision.py quality            # EfficientNet-Lite0 on six foolbox photos
    python benchmarks/precision.py memory             # of one backward pass, for each network

Quality: the classifier in a lower precision compared with float32. Probability of the class in the file name;
iGOS++ (28 x 28) and gradient maps made with each classifier; deletion and insertion AUC of both, measured
with the float32 classifier; rank correlation of the maps. Two float32 runs of one photo give the same map, so
all differences are due to the precision.

Memory: what a forward pass retains for the backward pass, from the traced program, and the temporary memory
that XLA plans for `value_and_grad` with respect to the images, with its default passes and with the barriers
kept that separate the recomputation from the first computation. XLA's CPU backend removes these barriers and
then merges the two.
"""

import argparse
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxplain as jx
from jaxplain.attributions import gradient
from jaxplain.metrics import rank_correlation
from jaxplain.precision import Rematerialized

MEBI = 2**20
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
NETWORKS = ("efficientnet-lite0", "resnet50")
MAPS = ("igos++", "gradient")
FIGURES = ("probability", "difference", "deletion_auc", "insertion_auc", "rank_correlation")

# ---------------------------------------------------------------------------------------------------------
# Quality


def measure(model: Any, exact: jx.zoo.ZooClassifier, path: Path) -> list[dict[str, Any]]:
    """Make both maps of a photo with one classifier and measure them with the exact one."""
    image = harness.squeezed(path, model)
    baseline = jx.blur_baseline(image)
    score, exact_score = (jx.class_score(one, harness.label(path)) for one in (model, exact))
    # The seconds are of both maps; those of the first photo include compilation.
    explanations, seconds = harness.timed(
        lambda: (jx.igos_pp(score, image, baseline), gradient(score, image))
    )
    rows = []
    for name, explanation in zip(MAPS, explanations, strict=True):
        curves = jx.insertion_deletion(exact_score, image, baseline, explanation.importance)
        rows.append(
            {
                "photo": path.name,
                "map": name,
                "importance": explanation.importance,
                "probability": float(score(image[None])[0]),
                "deletion_auc": float(curves.deletion_auc),
                "insertion_auc": float(curves.insertion_auc),
                "seconds": seconds,
            }
        )
    return rows


def quality(options: argparse.Namespace) -> list[dict[str, Any]]:
    exact = jx.zoo.load(options.model)
    models = {"float32": exact} | {name: jx.lower_precision(exact, name) for name in options.dtype}
    rows = []
    for path in harness.chosen_photos(options, harness.foolbox(harness.SIX)):
        references: list[dict[str, Any]] = []
        for dtype, model in models.items():
            measured = measure(model, exact, path)
            references = references or measured
            for row, reference in zip(measured, references, strict=True):
                row["dtype"] = dtype
                row["rank_correlation"] = float(rank_correlation(row["importance"], reference["importance"]))
                row["difference"] = abs(row["probability"] - reference["probability"])
                print(line(f"{row['photo']:28}", row), f"{row['seconds']:6.1f} s", flush=True)
            rows += measured
    for dtype in models:
        for name in MAPS:
            chosen = [row for row in rows if (row["dtype"], row["map"]) == (dtype, name)]
            mean = {figure: np.mean([row[figure] for row in chosen]) for figure in FIGURES}
            largest = max(row["difference"] for row in chosen)
            print(line("mean", {"map": name, "dtype": dtype, **mean}), f"largest difference {largest:.4f}")
    return [{key: value for key, value in row.items() if key != "importance"} for row in rows]


def line(name: str, row: dict[str, Any]) -> str:
    figures = "  ".join(f"{figure.replace('_', ' ')} {row[figure]:.4f}" for figure in FIGURES)
    return f"{name} {row['map']:9} {row['dtype']:9} {figures}"


# ---------------------------------------------------------------------------------------------------------
# Memory


def abstract(name: str) -> jx.zoo.ZooClassifier:
    """Return a network of the zoo without numbers, because memory depends on shapes only."""
    build = jx.zoo.MODELS[name].build
    return nnx.eval_shape(lambda: build(name, jx.zoo.imagenet_labels(), rngs=nnx.Rngs(0)))


def variants(plain: jx.zoo.ZooClassifier) -> dict[str, Any]:
    low = jax.eval_shape(jx.lower_precision, plain)
    return {
        "float32": plain,
        "recomputed": jx.rematerialize(plain),
        "products kept": Rematerialized(plain),
        "bfloat16": low,
        "bfloat16, recomputed": jx.rematerialize(low),
    }


def value_and_grad(model: Any, images: jax.Array) -> Any:
    return jax.value_and_grad(lambda images: model(images)[:, 0].sum())(images)


def retained(model: Any, size: tuple[int, int]) -> float:
    """Return the MiB per image that a forward pass retains for the backward pass, on any platform."""

    def total(batch: int) -> int:
        images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)
        residuals = jax.eval_shape(lambda model, images: jax.vjp(model, images)[1], model, images)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree_util.tree_leaves(residuals))

    return (total(2) - total(1)) / MEBI  # the difference, because parameters do not grow with the batch


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    print(f"{jax.default_backend()}, MiB: retained per image; planned for {options.batch} (barriers kept)")
    for name in options.network:
        plain = abstract(name)
        images = jax.ShapeDtypeStruct((options.batch, *plain.spec.size, 3), jnp.float32)
        for variant, model in variants(plain).items():
            lowered = jax.jit(value_and_grad).lower(model, images)
            planned, with_barriers = (
                lowered.compile(compiler_options=flags).memory_analysis().temp_size_in_bytes / MEBI
                for flags in ({}, KEEP_BARRIERS)
            )
            row = {"network": name, "variant": variant, "retained": retained(model, plain.spec.size)}
            rows.append(row | {"planned": planned, "planned_with_barriers": with_barriers})
            print(
                f"{name:20} {variant:22} {row['retained']:6.1f}   {planned:6.0f} ({with_barriers:.0f})",
                flush=True,
            )
    return rows


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("what", choices=("quality", "memory"))
    parser.add_argument("--model", default="efficientnet-lite0", help="model whose quality is measured")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"], help="dtypes whose quality is measured")
    parser.add_argument("--network", nargs="+", default=NETWORKS, help="networks whose memory is measured")
    parser.add_argument("--batch", type=int, default=8, help="images per backward pass, for memory")
    options = parser.parse_args()
    harness.save(options, quality(options) if options.what == "quality" else memory(options))


if __name__ == "__main__":
    main()
