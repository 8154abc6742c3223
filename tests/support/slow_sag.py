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
    """Remove the patch that leaves the highest score while that suffices."""
    while True:
        smaller = {s - {p}: score(s - {p}) for p in sorted(s)}
        best = max(smaller, key=smaller.get, default=s)  # the first of equals
        if not smaller or not smaller[best] >= enough:
            return s
        s = best


def reached(score, patches, threshold):
    """Minimal sets from all that are reached from the empty set through insufficient ones."""
    enough = np.float32(threshold) * score(frozenset(range(patches)))
    found, front = set(), {frozenset()}
    if score(frozenset()) >= enough:
        return {frozenset()}
    while front:
        larger = {s | {p} for s in front for p in range(patches) if p not in s}
        found |= {reduce(score, s, enough) for s in larger if score(s) >= enough}
        front = {s for s in larger if score(s) < enough}
    return found


class Found(NamedTuple):
    """What a slow beam search found."""

    roots: set
    scored: dict  # the score of every set that it looked at
    asked: int  # how often it looked: model calls without a memory


def beam_search(
    score, patches, threshold, *, width, candidates, max_size, max_roots, proposal=None, supersets=False
):
    """The beam search as documented."""
    scored, asked = {}, 0

    def look(s):
        nonlocal asked
        asked += 1
        return scored.setdefault(s, score(s))

    enough = np.float32(threshold) * look(frozenset(range(patches)))
    if look(frozenset()) >= enough:
        return Found({frozenset()}, scored, asked)
    ranks = np.zeros(patches) if proposal is None else proposal
    order = sorted(range(patches), key=lambda p: (-ranks[p], p))
    best_first = earlier_first(scored.get)
    roots, beam = [], [frozenset()]
    for _ in range(max_size):
        if not beam or len(roots) >= max_roots:
            break
        successors = [s | {p} for s in beam for p in [p for p in order if p not in s][:candidates]]
        larger = {s for s in successors if not np.isnan(look(s))}
        sufficient = sorted((s for s in larger if scored[s] >= enough), key=best_first)
        if not supersets:
            known = list(roots)
            sufficient = [s for s in sufficient if not any(root <= s for root in known)]
        for start in range(0, len(sufficient), max_roots):
            if len(roots) >= max_roots:
                break
            for s in sufficient[start : start + max_roots]:
                small = reduce(look, s, enough)
                if small not in roots:
                    roots.append(small)
        beam = sorted((s for s in larger if scored[s] < enough), key=best_first)[:width]
    return Found(set(roots[:max_roots]), scored, asked)
