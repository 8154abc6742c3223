"""The paper's user question, answered by machine: which of two occluded versions of a photo scores higher?

    python benchmarks/counterfactual.py --photos DIR --every 2

The two versions of a pair hide equally many of the 7 x 7 patches at random, behind the blurred photo; only
pairs whose scores differ by at least a tenth of the photo's are asked. Each explanation of the photo answers:
- SAG: the graph of the diverse explanations (overlap at most 1), the first 3 as shown to people or all, and
  that of all explanations found; see `jaxplain.sag.support`;
- a heatmap: the version whose shown pixels hold more saliency, for iGOS++ and I-GOS (28 x 28) and integrated
  gradients over the patches (the search's proposal map).
Where an explanation cannot tell, it gets half a point, as a guess would. The interval is a bootstrap over
photos.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import photos

import jaxplain as jx
from jaxplain import funnel
from jaxplain.sag.patches import Scene, show

GRID = (7, 7)
PATCHES = GRID[0] * GRID[1]
APART = 0.1  # of the photo's score


class Question(NamedTuple):
    """Two occluded versions of a photo."""

    shown: np.ndarray  # bool [2, P]
    relative: np.ndarray  # [2], true scores as shares of the photo's


@partial(jax.jit, static_argnames="batch_size")
def shares(score, scene: Scene, sets, *, batch_size=None):
    def draw(_, scene, patches):
        return show(scene, patches, GRID)

    whole = score(scene.image[None])[0]
    return funnel.evaluate(score, draw, (), scene, sets, batch_size=batch_size) / whole


def questions(score, scene: Scene, seed: int, count: int) -> list[Question]:
    """The pairs of a photo that are far enough apart."""
    random = np.random.default_rng(seed)
    hidden = random.integers(4, PATCHES - 4, count)
    ranks = random.random((count, 2, PATCHES)).argsort(axis=-1)
    shown = ranks >= hidden[:, None, None]
    relative = np.asarray(shares(score, scene, jnp.asarray(shown.reshape(-1, PATCHES)))).reshape(count, 2)
    pairs = map(Question, shown, relative)
    return [pair for pair in pairs if abs(pair.relative[0] - pair.relative[1]) >= APART]


def answers(score, scene: Scene):
    """For each explanation of a photo a function from shown patches to how convincing they should be."""
    image, baseline = scene
    proposal = jx.sag.proposal_map(score, image, baseline)
    roots = jx.sag.search(score, image, baseline, proposal=proposal)
    diverse = jx.sag.diverse_subset(roots, 1).roots
    grow = partial(jx.sag.graph, score, image, baseline)
    first = jnp.cumsum(diverse.valid) <= 3
    of_graph = {
        "SAG, 3 diverse": grow(replace(diverse, valid=diverse.valid & first)),
        "SAG, all diverse": grow(diverse),
        "SAG, all found": grow(roots),
    }
    maps = {
        "iGOS++": jx.igos_pp(score, image, baseline).saliency,
        "I-GOS": jx.igos(score, image, baseline).saliency,
    }
    functions = {name: partial(by_graph, graph) for name, graph in of_graph.items()}
    functions |= {name: partial(by_heatmap, np.asarray(saliency)) for name, saliency in maps.items()}
    return functions | {"integrated gradients": partial(by_patches, np.asarray(proposal).reshape(-1))}


def by_graph(graph, shown: np.ndarray):
    return jx.sag.support(graph, np.flatnonzero(shown).tolist())


def by_heatmap(saliency: np.ndarray, shown: np.ndarray) -> float:
    mask = jx.upsample(jnp.asarray(shown.reshape(GRID), jnp.float32), saliency.shape)
    return float(np.sum(np.asarray(mask) * saliency))


def by_patches(values: np.ndarray, shown: np.ndarray) -> float:
    return float(values[shown].sum())


def points(answer, asked: list[Question]) -> np.ndarray:
    """1 for a right answer, 0 for a wrong one, a half for none: [questions]."""
    found = []
    for question in asked:
        first, second = answer(question.shown[0]), answer(question.shown[1])
        told = (first > second) - (first < second)
        right = 1 if question.relative[0] > question.relative[1] else -1
        found.append(0.5 if told == 0 else float(told == right))
    return np.array(found)


def interval(by_photo: list[np.ndarray], draws: int = 2000) -> tuple[float, float]:
    """95% of the mean, photos drawn with replacement."""
    random = np.random.default_rng(0)
    sums, counts = (np.array([f(p) for p in by_photo]) for f in (np.sum, len))
    picks = random.integers(0, len(by_photo), (draws, len(by_photo)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--every", type=int, default=1, help="only each so-many-eth photo")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--pairs", type=int, default=60, help="drawn for each photo")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    model = jx.zoo.load("efficientnet-lite0")
    paths = photos.foolbox() if options.photos is None else photos.folder(options.photos)
    results: dict[str, list[np.ndarray]] = {}
    for number, path in enumerate(paths[:: options.every][: options.limit]):
        image = model.preprocess(jx.load_image(path))
        score = jx.class_score(model, jx.top_class(model, image))
        scene = Scene(image, jx.blur_baseline(image))
        asked = questions(score, scene, number, options.pairs)
        if not asked:
            continue
        for name, answer in answers(score, scene).items():
            results.setdefault(name, []).append(points(answer, asked))
        means = "  ".join(f"{name} {np.concatenate(found).mean():.3f}" for name, found in results.items())
        print(f"[{number + 1}] {len(asked):2} pairs of {path.name:28} so far: {means}", flush=True)
    summary = {}
    for name, found in results.items():
        low, high = interval(found)
        every = np.concatenate(found)
        summary[name] = {"right": every.mean(), "low": low, "high": high, "untold": (every == 0.5).mean()}
        print(
            f"{name:22} right {every.mean():.3f} [{low:.3f}, {high:.3f}]  "
            f"cannot tell {(every == 0.5).mean():.2f}  of {len(every)} pairs on {len(found)} photos"
        )
    if options.json:
        options.json.write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
