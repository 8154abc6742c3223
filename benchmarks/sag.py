"""Beam search for minimal sufficient explanations on real photos, with EfficientNet-Lite0.

    python benchmarks/sag.py                                    # foolbox photos that are classified right
    python benchmarks/sag.py --photos DIR --limit 20            # a folder of CLASS_name.JPEG
    python benchmarks/sag.py --floor 6                          # 6 searches against bare model calls
    python benchmarks/sag.py --slow 3                           # 3 searches against a slow one in Python

Beam 5, 15 candidates by the proposal map, 7 x 7 patches, threshold 0.9, sets of up to 20 patches, at most
30 explanations (MSEs). A table per baseline: MSEs an image, their sizes, share of the images explained with
at most 5, 10, 20 patches, seconds after compilation, model evaluations.
The floor is the same number of model calls in one compiled loop, each of another image, taken in turns with
the search.
The slow search is a Python program that calls the model for every successor and every removal as it comes
up, however often it came before, as the published program does; it must find the same sets.
The published demonstration (VGG-19, exhaustive variant, 8 photos) found 3 to 59 MSEs of 2 to 4 patches in
190 to 400 seconds each.
"""

import argparse
import functools
import json
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import photos
from jaxplain.jobs.photos import read_photo
from jaxplain.jobs.sag import SagJob, compile_sag, explain_sag

import jaxplain as jx
from jaxplain.sag.patches import Scene, show

GRID = (7, 7)


def paths_of(options, model) -> list[Path]:
    """The photos whose top prediction is the class that the file name gives."""
    found = photos.foolbox() if options.photos is None else photos.folder(options.photos)
    predict = jax.jit(jx.top_class)

    def is_right(path: Path) -> bool:
        return int(predict(model, model.preprocess(jx.load_image(path)))) == photos.label(path)

    return [path for path in found if is_right(path)][: options.limit]


def measure(options, model, baseline: str) -> dict:
    job = SagJob(grid=GRID, baseline=baseline, candidates=options.candidates or None)
    program = compile_sag(job, model)
    rows, summaries = [], []
    for path in paths_of(options, model):
        found = explain_sag(program, read_photo(path).rgb)
        summaries.append(found.summary)
        rows.append(
            {
                "photo": path.name,
                "p": found.probability,
                "mses": len(found.roots),
                "sizes": dict(Counter(found.summary.sizes)),
                "diverse": found.summary.diverse,
                "subs": found.summary.sub_explanations,
                "nodes": len(found.graph.nodes),
                "evaluations": int(found.roots.evaluations),
                "seconds": found.seconds["search"],
                "graph seconds": found.seconds["graph"],
                "status": found.status.name.lower(),
            }
        )
        row = rows[-1]
        print(
            f"  {path.name:24} p {row['p']:.2f}  {row['mses']:2} MSEs  sizes {row['sizes']!s:40} "
            f"{row['evaluations']:5} evaluations  {row['seconds']:5.1f} s  {row['status']}",
            flush=True,
        )
    together = jx.sag.statistics(summaries)
    report(baseline, rows, together, program.compile_seconds)
    return {"baseline": baseline, "rows": rows, **together.to_dict()}


def report(baseline: str, rows: list[dict], together: jx.sag.Statistics, compiled: float) -> None:
    counts = [row["mses"] for row in rows]
    seconds = [row["seconds"] for row in rows]
    shares = "  ".join(f"<= {k}: {together.explained[k]:.2f}" for k in (5, 10, 20))
    print(
        f"{baseline}: {len(rows)} photos; MSEs {min(counts)} to {max(counts)}, mean {np.mean(counts):.1f}; "
        f"mean size {together.mean_size:.1f}; explained with {shares}\n"
        f"  at overlap 0 / 1 / 2: {' / '.join(f'{m:.1f}' for m in together.diverse)}; "
        f"sub-explanations above .8 .7 .6 .5: {' / '.join(f'{m:.1f}' for m in together.sub_explanations)}\n"
        f"  seconds {np.mean(seconds):.1f} (most {max(seconds):.1f}), "
        f"evaluations {np.mean([row['evaluations'] for row in rows]):.0f} "
        f"(most {max(row['evaluations'] for row in rows)}); compiled in {compiled:.1f} s",
        flush=True,
    )


# --- the floor


@partial(jax.jit, static_argnames="batch_size")
def bare_calls(score, images, count, *, batch_size: int):
    """`count` model calls on batches taken from a few images."""
    batches = images.reshape(-1, batch_size, *images.shape[1:])

    def step(number, total):
        return total + score(batches[number % len(batches)]).sum()

    return jax.lax.fori_loop(0, count // batch_size, step, 0.0)


def floor(options, model) -> None:
    """Searches against the same number of model calls, by turns; no proposal map, which is no search."""
    print("search against bare model calls, seconds")
    ratios = []
    for path in paths_of(options, model)[: options.floor]:
        image = model.preprocess(jx.load_image(path))
        score = jx.class_score(model, jx.top_class(model, image))
        baseline = jx.blur_baseline(image)
        others = jnp.stack([image * (1 - n / 16) for n in range(8)])
        proposal = jx.sag.proposal_map(score, image, baseline)
        count = int(jx.sag.search(score, image, baseline, proposal=proposal).evaluations)
        bare_calls(score, others, 8, batch_size=1).block_until_ready()
        spent = {"search": [], "bare": []}
        for _ in range(options.rounds):
            start = time.perf_counter()
            jax.block_until_ready(jx.sag.search(score, image, baseline, proposal=proposal))
            middle = time.perf_counter()
            bare_calls(score, others, count, batch_size=1).block_until_ready()
            spent["search"].append(middle - start)
            spent["bare"].append(time.perf_counter() - middle)
        ratios.append(min(spent["search"]) / min(spent["bare"]))
        print(
            f"  {path.name:24} {count:5} calls  search {min(spent['search']):6.2f}  "
            f"bare {min(spent['bare']):6.2f}  ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"  mean ratio {np.mean(ratios):.3f}, most {max(ratios):.3f}")


# --- the slow search


def slow(options, model) -> None:
    """The sets of the compiled search from a Python program without a memory, and its model calls."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import slow_sag

    for path in paths_of(options, model)[: options.slow]:
        image = model.preprocess(jx.load_image(path))
        score = jx.class_score(model, jx.top_class(model, image))
        baseline = jx.blur_baseline(image)
        proposal = jx.sag.proposal_map(score, image, baseline)
        found = jx.sag.search(score, image, baseline, proposal=proposal)

        @functools.cache
        def of_set(patches, score=score, image=image, baseline=baseline):
            row = np.isin(np.arange(GRID[0] * GRID[1]), list(patches))
            return np.asarray(one_call(score, image, baseline, row))

        expected = slow_sag.beam_search(
            of_set, 49, 0.9, width=5, candidates=15, max_size=20, max_roots=30,
            proposal=np.asarray(proposal).reshape(-1),
        )  # fmt: skip
        sets = {frozenset(np.flatnonzero(row).tolist()) for row in found.sets[found.valid]}
        print(
            f"  {path.name:24} {len(sets):2} sets, the same: {sets == expected.roots}; model calls "
            f"{int(found.evaluations)} against {expected.asked} "
            f"({expected.asked / found.evaluations:.2f} times)",
            flush=True,
        )


@jax.jit
def one_call(score, image, baseline, row):
    return score(show(Scene(image, baseline), row, GRID)[None])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--baseline", action="append", metavar="NAME", help="blur and black if left out")
    parser.add_argument("--candidates", type=int, default=15, help="0: all")
    parser.add_argument("--floor", type=int, default=0, metavar="N", help="only the floor, for N photos")
    parser.add_argument("--slow", type=int, default=0, metavar="N", help="only the slow search, N photos")
    parser.add_argument("--rounds", type=int, default=2, help="of the floor")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    model = jx.zoo.load("efficientnet-lite0")
    if options.floor:
        return floor(options, model)
    if options.slow:
        return slow(options, model)
    results = [measure(options, model, name) for name in options.baseline or ("blur", "black")]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
