"""The attention graph of a report: its explanations as pictures, and what was found in words."""

from collections.abc import Iterable

import numpy as np

from jaxplain import render
from jaxplain.jobs.report import PhotoReport, ReportProgram
from jaxplain.jobs.sag import MAX_CHILDREN, SagExplanation, SagProgram
from jaxplain.render import report as parts
from jaxplain.sag import Status

_PICTURES = 3  # explanations that are shown as pictures


def graph_of(program: ReportProgram, found: PhotoReport) -> parts.Graph | str | None:
    """The graph as the page shows it; as it is where there is none."""
    sag = found.sag
    if not isinstance(sag, SagExplanation):
        return sag
    photo = parts.Picture(sag.seen, "the photo with all patches", "The whole photo: 100% of the score.")
    whole = parts.Root(photo, tuple(range(sag.graph.grid[0] * sag.graph.grid[1])))
    roots = (_root(sag, number, *one) for number, one in enumerate(_shown(sag), 1))
    words = graph_words(program, sag)
    return parts.Graph(sag.graph.pruned(MAX_CHILDREN), sag.hidden, (whole, *roots), words)


def _shown(sag: SagExplanation) -> list[tuple[tuple[int, ...], float]]:
    """Patches and shares of the explanations in the graph, then of those least like the ones before."""
    valid = np.flatnonzero(sag.roots.valid)
    sets, shares = np.asarray(sag.roots.sets)[valid], np.asarray(sag.roots.relative)[valid]
    found = {
        tuple(np.flatnonzero(one).tolist()): float(share) for one, share in zip(sets, shares, strict=True)
    }
    shown = {node.patches: node.relative for node in sag.graph.roots}
    while len(shown) < min(_PICTURES, len(found)):
        rest = [patches for patches in found if patches not in shown]
        nearest = min(rest, key=lambda patches: _shared(patches, shown))
        shown[nearest] = found[nearest]
    return list(shown.items())


def _shared(patches: tuple[int, ...], others: Iterable[tuple[int, ...]]) -> int:
    """Most patches that a set shares with one of the others."""
    return max((len(set(patches) & set(other)) for other in others), default=0)


def _root(sag: SagExplanation, number: int, patches: tuple[int, ...], share: float) -> parts.Root:
    names = ", ".join(f"P{patch}" for patch in patches) or "no patch"
    picture = parts.Picture(
        render.masked_photo(sag.seen, sag.hidden, patches, sag.graph.grid),
        f"the photo with only the patches of explanation {number} shown",
        f"Explanation {number}: {names} keep {share:.0%} of the score.",
    )
    return parts.Root(picture, patches)


def graph_words(program: ReportProgram, sag: SagExplanation) -> str:
    """What was found, in a sentence or two."""
    sizes, drawn, (rows, cols) = sag.summary.sizes, len(sag.graph.roots), sag.graph.grid
    if not sizes:
        return f"No small set of patches that suffices was found: {sag.status.message}."
    span = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    kept = f"at least {sag.graph.threshold:.0%} of the score"
    if len(sizes) == 1:
        return f"One minimal set of patches suffices: {span} of {rows * cols}, which alone keep {kept}."
    more = " or more" if sag.status in (Status.BUFFER_FULL, Status.BUDGET_SPENT) else ""
    which = f" The graph shows {drawn} of them{_apart(program, sag)}." if drawn < len(sizes) else ""
    return (
        f"{len(sizes)}{more} minimal sets of patches suffice: {span} of {rows * cols} patches, which alone "
        f"keep {kept}.{which}"
    )


def _apart(program: ReportProgram, sag: SagExplanation) -> str:
    """How the explanations of the graph were chosen."""
    assert isinstance(program.sag, SagProgram)
    overlap = program.sag.job.max_overlap
    shared = f"{overlap} patch{'es' * (overlap != 1)}"
    if len(sag.graph.roots) > 1:
        return f", which share at most {shared}"
    return f", as any two share more than {shared}" if sag.summary.exact else ""
