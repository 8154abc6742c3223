"""jaxplain against arrays that the published iGOS++ program wrote: a folder of .npz files.

    python benchmarks/published.py DIR

Fields of a file: rgb, blurred, logits, logits_blurred, target, mask, mask_upsampled, tv, btv,
{deletion,insertion}_path_{mean,gradient} (20 steps, no noise), deletion_curve, insertion_curve.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain import paths
from jaxplain.masks import objective, penalties


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    model = jx.zoo.load("efficientnet-lite0")
    for path in sorted(parser.parse_args().folder.glob("*.npz")):
        print(path.name)
        for name, error in errors(model, np.load(path)).items():
            print(f"  {name:32} {error:.1e}")


def errors(model: jx.zoo.ZooClassifier, golden) -> dict[str, float]:
    """Largest absolute differences; for gradients the relative norm of the difference."""
    image, baseline = model.normalize(golden["rgb"]), model.normalize(golden["blurred"])
    logits = jax.jit(lambda model, images: model(images))(model, jnp.stack([image, baseline]))
    mask, edges = jnp.asarray(golden["mask"]), penalties.edge_weights(image)
    score = jx.class_score(model, int(golden["target"]))
    curves = jx.insertion_deletion(score, image, baseline, 1.0 - mask)
    found = {
        "logits": logits[0] - golden["logits"],
        "logits of the baseline": logits[1] - golden["logits_blurred"],
        "upsampled mask": jx.upsample(mask, image.shape[:2]) - golden["mask_upsampled"],
        "tv": penalties.total_variation(mask) - golden["tv"],
        "btv": penalties.bilateral_total_variation(mask, edges) - golden["btv"],
        "deletion curve": curves.deletion - golden["deletion_curve"],
        "insertion curve": curves.insertion - golden["insertion_curve"],
    }
    for name, sign in (("deletion", 1), ("insertion", -1)):
        slopes = path_slopes(score, image, baseline, mask, insertion=name == "insertion")
        gradient = golden[f"{name}_path_gradient"]
        found[f"{name} path mean"] = sign * slopes.loss - golden[f"{name}_path_mean"]
        found[f"{name} path gradient, relative"] = np.linalg.norm(
            sign * slopes.grads[0] - gradient
        ) / np.linalg.norm(gradient)
    return {name: float(np.abs(difference).max()) for name, difference in found.items()}


def path_slopes(score, image, baseline, mask, *, insertion: bool) -> objective.Slopes:
    """One path-integrated term alone: 20 right-hand Riemann nodes, no noise, no penalties."""
    form = objective.Objective(1, lambda masks: masks, (objective.Term(0, insertion),), "tv")
    numbers = objective.Coefficients(
        l1=0.0, l2=0.0, noise=None, score_weight=1.0, deletion=1.0, insertion=1.0
    )
    problem = objective.Problem(
        score, image, baseline[None], penalties.edge_weights(image), paths.riemann(20),
        jax.tree_util.tree_map(jnp.float32, numbers),
    )  # fmt: skip
    return jax.jit(partial(objective.slopes, objective.Setup(form, None)))(problem, mask[None], None)


if __name__ == "__main__":
    main()
