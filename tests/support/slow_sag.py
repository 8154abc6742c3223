"""Structured attention graphs spelled out slowly: Python sets, loops and a dictionary of scores.

Written from the definition, not from the package's code; nothing here imports it. A patch set is a frozenset
of patch numbers, a score a function of it.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np


def all_sets(patches):
    for size in range(patches + 1):
        yield from map(frozenset, combinations(range(patches), size))


def brute_force(score, patches, threshold):
    """Sufficient sets that no single removal leaves sufficient."""
    enough = np.float32(threshold) * score(frozenset(range(patches)))
    return {s for s in all_sets(patches) if score(s) >= enough and all(score(s - {p}) < enough for p in s)}


def earlier_first(score):
    """Sort key: by falling score, ties to the set with the earlier patch where two differ."""
    return lambda s: (-score(s), [p not in s for p in range(max(s, default=0) + 1)])


def reduce(score, s, enough):
    """Remove the patch that leaves the highest score as long as that is sufficient."""
    while True:
        smaller = {s - {p}: score(s - {p}) for p in sorted(s)}
        best = max(smaller, key=smaller.get, default=s)  # the first of equals
        if not smaller or not smaller[best] >= enough:
            return s
        s = best


def reached(score, patches, threshold):
    """Minimal sets of all sufficient sets that are reached from the empty set through insufficient ones."""
    enough = np.float32(threshold) * score(frozenset(range(patches)))
    explanations, front = set(), {frozenset()}
    if score(frozenset()) >= enough:
        return {frozenset()}
    while front:
        larger = {s | {p} for s in front for p in range(patches) if p not in s}
        explanations |= {reduce(score, s, enough) for s in larger if score(s) >= enough}
        front = {s for s in larger if score(s) < enough}
    return explanations


class SlowResult(NamedTuple):
    """The result of a slow beam search."""

    explanations: set
    scored: dict  # the score of every set that it looked at
    asked: int  # how often it looked: model calls without a memory
    best: list  # the best score of each size, from size 0


def beam_search(
    score,
    patches,
    threshold,
    *,
    width,
    candidates,
    max_size,
    max_explanations,
    proposal=None,
    supersets=False,
):
    """The beam search as documented."""
    scored, asked = {}, 0

    def look(s):
        nonlocal asked
        asked += 1
        return scored.setdefault(s, score(s))

    enough = np.float32(threshold) * look(frozenset(range(patches)))
    best = [look(frozenset())]
    if best[0] >= enough:
        return SlowResult({frozenset()}, scored, asked, best)
    ranks = np.zeros(patches) if proposal is None else proposal
    order = sorted(range(patches), key=lambda p: (-ranks[p], p))
    best_first = earlier_first(scored.get)
    explanations, beam = [], [frozenset()]
    for _ in range(max_size):
        if not beam or len(explanations) >= max_explanations:
            break
        successors = [s | {p} for s in beam for p in [p for p in order if p not in s][:candidates]]
        larger = {s for s in successors if not np.isnan(look(s))}
        best.append(max(map(scored.get, larger), default=np.nan))
        sufficient = sorted((s for s in larger if scored[s] >= enough), key=best_first)
        if not supersets:
            known = list(explanations)
            sufficient = [s for s in sufficient if not any(other <= s for other in known)]
        for start in range(0, len(sufficient), max_explanations):
            if len(explanations) >= max_explanations:
                break
            for s in sufficient[start : start + max_explanations]:
                small = reduce(look, s, enough)
                if small not in explanations:
                    explanations.append(small)
        beam = sorted((s for s in larger if scored[s] < enough), key=best_first)[:width]
    return SlowResult(set(explanations[:max_explanations]), scored, asked, best)
