"""Beam search for minimal sufficient explanations on real photos, with EfficientNet-Lite0.

    python benchmarks/sag.py                                    # correctly classified foolbox photos
    python benchmarks/sag.py --photos DIR --limit 20            # a folder of CLASS_name.JPEG
    python benchmarks/sag.py bare --limit 6                     # time relative to bare model calls
    python benchmarks/sag.py slow --limit 3                     # against a slow search in Python

Beam 5, 15 candidates from the proposal map, 7 x 7 patches, threshold 0.9, sets of up to 20 patches, at most
30 minimal sufficient explanations (MSEs). For each baseline: number of MSEs, their sizes, share of the photos
explained with at most 5, 10 and 20 patches, seconds after compilation, model evaluations.

"bare" compares each search, without its proposal map, with the same number of model calls in one compiled
loop, each on a different image; the two alternate. "slow" runs a Python program that calls the model for
every successor and every removal, however often the set was scored before, as the published program does; it
must find the same sets.

The published demonstration (VGG-19, exhaustive variant, 8 photos) found 3 to 59 MSEs of 2 to 4 patches in 190
to 400 seconds each.
"""

import argparse
import functools
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain.runs.graph_runs import GraphProgram, GraphSettings, compile_graphs, graph_photo
from jaxplain.sag.patches import Scene, show

GRID = (7, 7)
PATCHES = GRID[0] * GRID[1]

# ---------------------------------------------------------------------------------------------------------
# Explanations


def explanations(options: argparse.Namespace, model: jx.zoo.ZooClassifier, paths: list[Path]) -> list[dict]:
    return [measure(options, model, paths, name) for name in options.baseline]


def measure(
    options: argparse.Namespace, model: jx.zoo.ZooClassifier, paths: list[Path], baseline: str
) -> dict:
    """Search all photos with one baseline."""
    settings = GraphSettings(grid=GRID, baseline=baseline, candidates=options.candidates or None)
    program = compile_graphs(settings, model)
    rows, summaries = [], []
    for path in paths:
        row, summary = measure_photo(program, path)
        rows.append(row)
        summaries.append(summary)
    statistics = jx.sag.statistics(summaries)
    print_means(baseline, rows, statistics, program.compile_seconds)
    return {"baseline": baseline, "rows": rows, **statistics.to_dict()}


def measure_photo(program: GraphProgram, path: Path) -> tuple[dict[str, Any], jx.sag.Summary]:
    graphed = graph_photo(program, jx.load_image(path))
    row = {
        "photo": path.name,
        "probability": graphed.view.probability,
        "explanations": len(graphed.result),
        "sizes": dict(Counter(graphed.summary.sizes)),
        "diverse": graphed.summary.diverse,
        "sub_explanations": graphed.summary.sub_explanations,
        "nodes": len(graphed.graph.nodes),
        "evaluations": int(graphed.result.evaluations),
        "seconds": graphed.seconds["search"],
        "graph_seconds": graphed.seconds["graph"],
        "status": graphed.status.name.lower(),
    }
    print(
        f"  {path.name:24} p {float(row['probability']):.2f}  {row['explanations']:2} MSEs  "
        f"sizes {row['sizes']!s:40} {row['evaluations']:5} evaluations  {row['seconds']:5.1f} s  "
        f"{row['status']}",
        flush=True,
    )
    return row, graphed.summary


def print_means(
    baseline: str, rows: list[dict[str, Any]], statistics: jx.sag.Statistics, compile_seconds: float
) -> None:
    counts, seconds, evaluations = (
        np.array([row[name] for row in rows]) for name in ("explanations", "seconds", "evaluations")
    )
    shares = "  ".join(f"<= {k}: {statistics.explained[k]:.2f}" for k in (5, 10, 20))
    print(
        f"{baseline}: {len(rows)} photos; MSEs {counts.min()} to {counts.max()}, mean {counts.mean():.1f}; "
        f"mean size {statistics.mean_size:.1f}; explained with {shares}\n"
        f"  at overlap 0 / 1 / 2: {' / '.join(f'{mean:.1f}' for mean in statistics.diverse)}; "
        "sub-explanations above .8 .7 .6 .5: "
        f"{' / '.join(f'{mean:.1f}' for mean in statistics.sub_explanations)}\n"
        f"  seconds {seconds.mean():.1f} (maximum {seconds.max():.1f}), evaluations "
        f"{evaluations.mean():.0f} (maximum {evaluations.max()}); compiled in {compile_seconds:.1f} s",
        flush=True,
    )


# ---------------------------------------------------------------------------------------------------------
# Comparisons of one search


class Question(NamedTuple):
    """What is searched: the top class of a photo, behind the blurred photo."""

    score: jx.ClassScore
    image: jax.Array  # [H, W, C]
    baseline: jax.Array  # [H, W, C]
    proposal: jax.Array  # [rows, cols]

    def search(self) -> jx.sag.SearchResult:
        """Search with the default settings."""
        return jx.sag.search(self.score, self.image, self.baseline, proposal=self.proposal)


def question(model: jx.zoo.ZooClassifier, path: Path) -> Question:
    image = harness.cropped(path, model)
    score = jx.class_score(model, jx.top_class(model, image))
    baseline = jx.blur_baseline(image)
    return Question(score, image, baseline, jx.sag.proposal_map(score, image, baseline))


@functools.partial(jax.jit, static_argnames="batch_size")
def bare_calls(score: jx.ClassScore, images: jax.Array, count: int, *, batch_size: int) -> jax.Array:
    """Make `count` model calls on batches taken from a few images."""
    batches = images.reshape(-1, batch_size, *images.shape[1:])

    def step(number: jax.Array, total: jax.Array) -> jax.Array:
        return total + score(batches[number % len(batches)]).sum()

    return jax.lax.fori_loop(0, count // batch_size, step, 0.0)


def bare(options: argparse.Namespace, model: jx.zoo.ZooClassifier, paths: list[Path]) -> list[dict]:
    """Compare searches with the same number of bare model calls, alternately."""
    rows = []
    print("search relative to bare model calls, seconds")
    for path in paths:
        asked = question(model, path)
        images = jnp.stack([asked.image * (1 - n / 16) for n in range(8)])
        count = int(asked.search().evaluations)
        runs = {
            "search": asked.search,
            "bare": lambda asked=asked, images=images, count=count: bare_calls(
                asked.score, images, count, batch_size=1
            ),
        }
        seconds = harness.in_turns(runs, options.rounds)
        ratio = seconds["search"] / seconds["bare"]
        rows.append({"photo": path.name, "calls": count, **seconds, "ratio": ratio})
        print(
            f"  {path.name:24} {count:5} calls  search {seconds['search']:6.2f}  "
            f"bare {seconds['bare']:6.2f}  ratio {ratio:.3f}",
            flush=True,
        )
    ratios = [row["ratio"] for row in rows]
    print(f"  mean ratio {np.mean(ratios):.3f}, maximum {max(ratios):.3f}")
    return rows


def slow(options: argparse.Namespace, model: jx.zoo.ZooClassifier, paths: list[Path]) -> list[dict]:
    """Compare sets and model calls of the compiled search with those of a slow one in Python."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from support import slow_sag

    rows = []
    for path in paths:
        asked = question(model, path)
        result = asked.search()

        @functools.cache
        def score_of(patches: frozenset[int], asked: Question = asked) -> np.ndarray:
            shown = np.isin(np.arange(PATCHES), list(patches))
            return np.asarray(score_one(asked.score, asked.image, asked.baseline, shown))

        expected = slow_sag.beam_search(
            score_of, PATCHES, 0.9, width=5, candidates=15, max_size=20, max_explanations=30,
            proposal=np.asarray(asked.proposal).reshape(-1),
        )  # fmt: skip
        sets = {frozenset(result.patches(row)) for row in np.flatnonzero(result.valid)}
        calls, slow_calls = int(result.evaluations), expected.asked
        rows.append({"photo": path.name, "sets": len(sets), "same": sets == expected.explanations})
        rows[-1] |= {"calls": calls, "slow_calls": slow_calls}
        print(
            f"  {path.name:24} {len(sets):2} sets, the same: {rows[-1]['same']}; model calls {calls}, "
            f"slow search {slow_calls} ({slow_calls / calls:.2f} times)",
            flush=True,
        )
    return rows


@jax.jit
def score_one(score: jx.ClassScore, image: jax.Array, baseline: jax.Array, patches: jax.Array) -> jax.Array:
    return score(show(Scene(image, baseline), patches, GRID)[None])[0]


WORK = {"explanations": explanations, "bare": bare, "slow": slow}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("what", choices=WORK, nargs="?", default="explanations")
    parser.add_argument("--baseline", nargs="+", metavar="NAME", default=["blur", "black"])
    parser.add_argument("--candidates", type=int, default=15, metavar="N", help="per set; 0: all patches")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds of the bare comparison")
    options = parser.parse_args()
    model = jx.zoo.load("efficientnet-lite0")
    limit, options.limit = options.limit, None  # counts correctly classified photos
    paths = harness.correctly_classified(harness.chosen_photos(options), model)[:limit]
    harness.save(options, WORK[options.what](options, model, paths))


if __name__ == "__main__":
    main()
