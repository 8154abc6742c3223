"""Differences between jaxplain and arrays written by the published iGOS++ program.

    python benchmarks/published.py DIR

DIR holds .npz files with the fields rgb, blurred, logits, logits_blurred, target, mask, mask_upsampled, tv,
btv, {deletion,insertion}_path_{mean,gradient} (20 steps, no noise), deletion_curve, insertion_curve; other
.npz files are skipped.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import harness
import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain import paths
from jaxplain.masks import objective

FIELDS = {
    "rgb", "blurred", "logits", "logits_blurred", "target", "mask", "mask_upsampled", "tv", "btv",
    "deletion_path_mean", "deletion_path_gradient", "insertion_path_mean", "insertion_path_gradient",
    "deletion_curve", "insertion_curve",
}  # fmt: skip


def errors(model: jx.zoo.ZooClassifier, golden: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the largest absolute differences; for gradients the relative norm of the difference."""
    image, baseline = model.normalize(golden["rgb"]), model.normalize(golden["blurred"])
    logits = jax.jit(lambda model, images: model(images))(model, jnp.stack([image, baseline]))
    mask, edges = jnp.asarray(golden["mask"]), objective.edge_weights(image)
    score = jx.class_score(model, int(golden["target"]))
    curves = jx.insertion_deletion(score, image, baseline, 1.0 - mask)
    differences = {
        "logits": logits[0] - golden["logits"],
        "logits of the baseline": logits[1] - golden["logits_blurred"],
        "upsampled mask": jx.upsample(mask, image.shape[:2]) - golden["mask_upsampled"],
        "tv": objective.total_variation(mask) - golden["tv"],
        "btv": objective.bilateral_total_variation(mask, edges) - golden["btv"],
        "deletion curve": curves.deletion - golden["deletion_curve"],
        "insertion curve": curves.insertion - golden["insertion_curve"],
    }
    for name, sign in (("deletion", 1), ("insertion", -1)):
        slopes = path_slopes(score, image, baseline, mask, insertion=name == "insertion")
        gradient = golden[f"{name}_path_gradient"]
        difference = np.linalg.norm(sign * slopes.grads[0] - gradient)
        differences[f"{name} path mean"] = sign * slopes.loss - golden[f"{name}_path_mean"]
        differences[f"{name} path gradient, relative"] = difference / np.linalg.norm(gradient)
    return {name: float(np.abs(difference).max()) for name, difference in differences.items()}


def path_slopes(
    score: jx.ClassScore, image: jax.Array, baseline: jax.Array, mask: jax.Array, *, insertion: bool
) -> objective.Slopes:
    """Evaluate one path-integrated term alone: 20 right-hand Riemann nodes, no noise, no penalties."""
    form = objective.Objective(1, lambda masks: masks, (objective.Term(0, insertion),), "tv")
    numbers = objective.Coefficients(
        l1=0.0, l2=0.0, noise=None, score_weight=1.0, deletion=1.0, insertion=1.0
    )
    problem = objective.Problem(
        score, image, baseline[None], objective.edge_weights(image), paths.riemann(20),
        jax.tree_util.tree_map(jnp.float32, numbers),
    )  # fmt: skip
    run = jax.jit(partial(objective.slopes, objective.Setup(form, None, needs_endpoint=False)))
    return run(problem, mask[None], None, jnp.bool_(False))


def main() -> None:
    parser = harness.arguments(__doc__, photos=False)
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args()
    model = jx.zoo.load("efficientnet-lite0")
    results = {}
    for path in sorted(options.folder.glob("*.npz")):
        with np.load(path) as golden:
            if not set(golden) >= FIELDS:
                continue
            results[path.name] = errors(model, golden)
        print(path.name)
        for name, error in results[path.name].items():
            print(f"  {name:32} {error:.1e}", flush=True)
    harness.save(options, results)


if __name__ == "__main__":
    main()
