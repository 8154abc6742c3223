"""The paper's user study, answered by machine: which of two occluded versions of a photo scores higher?

    python benchmarks/counterfactual.py --photos DIR --every 2

Both versions of a pair hide the same number of the 7 x 7 patches, chosen at random, behind the blurred photo.
Only pairs whose scores differ by at least a tenth of the photo's score are used. Each explanation of the
photo predicts the answer:
- SAG: the graph of the diverse explanations (overlap at most 1), of the first 3 as shown to people or of all,
  and the graph of all explanations found; see `jaxplain.sag.support`;
- a heatmap: the version with more importance in its visible pixels, for iGOS++ and I-GOS (28 x 28) and
  integrated gradients over the patches (the search's proposal map).
An explanation that does not distinguish the versions gets half a point, the expected value of a guess. The
interval is a bootstrap over photos.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain import funnel
from jaxplain.sag.patches import Scene, show

GRID = (7, 7)
PATCHES = GRID[0] * GRID[1]
LEAST_DIFFERENCE = 0.1  # of a pair's scores, as a share of the photo's score

Predictor = Callable[[np.ndarray], Any]  # from visible patches, bool [P], to something that can be compared


class Pair(NamedTuple):
    """Two occluded versions of a photo."""

    visible: np.ndarray  # bool [2, P]
    relative: np.ndarray  # [2], scores as shares of the photo's


@jax.jit
def relative_scores(score: jx.ClassScore, scene: Scene, sets: jax.Array) -> jax.Array:
    """Return the scores of patch sets, bool [N, P], as shares of the photo's."""

    def draw(_: tuple, scene: Scene, patches: jax.Array) -> jax.Array:
        return show(scene, patches, GRID)

    return funnel.evaluate(score, draw, (), scene, sets) / score(scene.image[None])


def draw_pairs(score: jx.ClassScore, scene: Scene, seed: int, count: int) -> list[Pair]:
    """Draw pairs of a photo and return those whose scores differ enough."""
    random = np.random.default_rng(seed)
    hidden = random.integers(4, PATCHES - 4, count)
    ranks = random.random((count, 2, PATCHES)).argsort(axis=-1)
    visible = ranks >= hidden[:, None, None]
    sets = jnp.asarray(visible.reshape(-1, PATCHES))
    relative = np.asarray(relative_scores(score, scene, sets)).reshape(count, 2)
    pairs = map(Pair, visible, relative)
    return [pair for pair in pairs if abs(pair.relative[0] - pair.relative[1]) >= LEAST_DIFFERENCE]


def predictors(score: jx.ClassScore, scene: Scene) -> dict[str, Predictor]:
    """Explain a photo; return one predictor for each explanation."""
    image, baseline = scene
    proposal = jx.sag.proposal_map(score, image, baseline)
    result = jx.sag.search(score, image, baseline, proposal=proposal)
    diverse = jx.sag.diverse_subset(result, 1).result
    first = diverse.valid & (jnp.cumsum(diverse.valid) <= 3)
    explained = {
        "SAG, 3 diverse": replace(diverse, valid=first),
        "SAG, all diverse": diverse,
        "SAG, all found": result,
    }
    by_name: dict[str, Predictor] = {
        name: partial(graph_support, jx.sag.graph(score, image, baseline, chosen))
        for name, chosen in explained.items()
    }
    for name, method in {"iGOS++": jx.igos_pp, "I-GOS": jx.igos}.items():
        saliency = method(score, image, baseline).saliency(*image.shape[:2])
        by_name[name] = partial(visible_importance, np.asarray(saliency))
    patches = np.asarray(proposal).reshape(-1)
    return by_name | {"integrated gradients": lambda visible: float(patches[visible].sum())}


def graph_support(graph: jx.sag.AttentionGraph, visible: np.ndarray) -> jx.sag.Support:
    return jx.sag.support(graph, np.flatnonzero(visible).tolist())


def visible_importance(saliency: np.ndarray, visible: np.ndarray) -> float:
    mask = jx.upsample(jnp.asarray(visible.reshape(GRID), jnp.float32), saliency.shape)
    return float(np.sum(np.asarray(mask) * saliency))


def points(predict: Predictor, pairs: list[Pair]) -> np.ndarray:
    """Return 1 for a correct answer, 0 for a wrong one, 0.5 for none: [pairs]."""
    scored = []
    for pair in pairs:
        first, second = predict(pair.visible[0]), predict(pair.visible[1])
        answer = (first > second) - (first < second)
        truth = 1 if pair.relative[0] > pair.relative[1] else -1
        scored.append((1 + answer * truth) / 2)
    return np.array(scored)


def interval(by_photo: list[np.ndarray], draws: int = 2000) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean, with photos drawn with replacement."""
    random = np.random.default_rng(0)
    sums, counts = (np.array([function(p) for p in by_photo]) for function in (np.sum, len))
    picks = random.integers(0, len(by_photo), (draws, len(by_photo)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]).tolist())


def summarize(results: dict[str, list[np.ndarray]]) -> dict[str, dict[str, float]]:
    """Print and return the share of correct answers of each explanation."""
    summary = {}
    for name, by_photo in results.items():
        low, high = interval(by_photo)
        scored = np.concatenate(by_photo)
        undecided = (scored == 0.5).mean()
        summary[name] = {"correct": scored.mean(), "low": low, "high": high, "undecided": undecided}
        print(
            f"{name:22} correct {scored.mean():.3f} [{low:.3f}, {high:.3f}]  undecided {undecided:.2f}  "
            f"of {len(scored)} pairs on {len(by_photo)} photos"
        )
    return summary


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=60, metavar="N", help="pairs drawn per photo")
    options = parser.parse_args()
    model = jx.zoo.load("efficientnet-lite0")
    results: dict[str, list[np.ndarray]] = {}
    for number, path in enumerate(harness.chosen_photos(options)):
        image = harness.cropped(path, model)
        score = jx.class_score(model, jx.top_class(model, image))
        scene = Scene(image, jx.blur_baseline(image))
        pairs = draw_pairs(score, scene, number, options.pairs)
        if not pairs:
            continue
        for name, predict in predictors(score, scene).items():
            results.setdefault(name, []).append(points(predict, pairs))
        means = "  ".join(f"{name} {np.concatenate(scored).mean():.3f}" for name, scored in results.items())
        print(f"[{number + 1}] {path.name:28} {len(pairs):2} pairs; so far: {means}", flush=True)
    harness.save(options, summarize(results))


if __name__ == "__main__":
    main()
