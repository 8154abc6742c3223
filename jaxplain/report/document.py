"""Build a report page: convert the results of `jaxplain.runs.report_runs` to text and pictures."""

import functools
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

import jaxplain
from jaxplain import overlay
from jaxplain.explanation import Status
from jaxplain.methods import ABLATION
from jaxplain.report import graphs, pages
from jaxplain.runs.graph_runs import MAX_CHILDREN, GraphedPhoto, GraphProgram
from jaxplain.runs.photos import Photo
from jaxplain.runs.records import origin, weights_digest
from jaxplain.runs.report_runs import CONTROL, MethodReport, PhotoReport, ReportProgram, SanityCheck

PASSES, FAILS = 0.5, 0.8  # |rank correlation|: below the first, a map passes; from the second up, it fails

_CHOICES = 5  # number of classes shown
_PICTURES = 3  # number of explanations shown as pictures
_ALPHA = 0.6  # opacity of the map over the photo
_HEAD = 0.2  # fraction of the cells that a card describes


def page(program: ReportProgram, sections: Sequence[pages.Section], notes: Iterable[str] = ()) -> str:
    """Return the whole page as HTML.

    Args:
      program: the program that made the reports.
      sections: one section per photo; see `section`.
      notes: messages about photos that could not be explained.
    """
    return pages.render(
        "report.html",
        sections=sections,
        notes=list(notes),
        network=program.engine.classifier.name,
        settings=program.settings,
        thresholds=(PASSES, FAILS),
        versions=(jaxplain.__version__, jax.__version__),
        colors=_colors(),
    )


@functools.cache
def _colors() -> list[str]:
    """Return colors of the heatmaps, from the least to the most important cells."""
    colors = overlay.heatmap([[0.0, 1.0]], (1, 9), limits=(0.0, 1.0))[0].tolist()
    return ["#{:02x}{:02x}{:02x}".format(*color) for color in colors]


def section(program: ReportProgram, photo: Photo, report: PhotoReport, number: int = 1) -> pages.Section:
    """Return one photo's section of the page; `number` starts at 1."""
    return pages.report_section(report_parts(program, photo, report), number)


def report_parts(program: ReportProgram, photo: Photo, report: PhotoReport) -> pages.Report:
    """Return the contents of the page for one photo."""
    name = photo.path.name
    return pages.Report(
        title=name,
        label=program.engine.label(report.view),
        probability=report.view.probability,
        photo=pages.Picture(report.view.pixels, f"the photo {name}", "The photo as the network sees it."),
        findings=tuple(_findings(program, report)),
        choices=tuple(_choices(program, report)),
        cards=tuple(_card(program, report, entry) for entry in report.methods),
        checks=tuple(_checks(program, report)),
        check_words=check_words(program, report.methods, report.control),
        graph=_graph_part(program, report),
        figures=_figures(program, report),
        facts=tuple(_facts(program, photo, report)),
    )


def title(program: ReportProgram, method: str) -> str:
    """Return a method's name as written in papers."""
    return program.specs[method].title


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _aucs(report: MethodReport) -> tuple[float, float]:
    assert report.curves is not None
    return float(report.curves.deletion_auc), float(report.curves.insertion_auc)


def _choices(program: ReportProgram, report: PhotoReport) -> Iterator[pages.Choice]:
    """Yield the most probable classes, and the explained one if it is not among them."""
    target = report.view.target
    first = np.argsort(-report.probabilities)[:_CHOICES].tolist()
    for index in [*first, *([] if target in first else [target])]:
        label = program.engine.classifier.labels[index]
        yield pages.Choice(label, float(report.probabilities[index]), index == target)


# ---------------------------------------------------------------------------------------------------------
# Summary


def _findings(program: ReportProgram, report: PhotoReport) -> Iterator[str]:
    labels, order = program.engine.classifier.labels, np.argsort(-report.probabilities)
    p = [pages.probability_text(float(value)) for value in report.probabilities[order[:2]]]
    second = f", then {labels[order[1]]} ({p[1]})" if len(order) > 1 else ""
    yield f"{program.engine.classifier.name} predicts {labels[order[0]]} (p = {p[0]}){second}."
    target = report.view.target
    if target != order[0]:
        chance = pages.probability_text(report.view.probability)
        yield f"This page explains {labels[target]} (p = {chance}), which is not the top prediction."
    elif report.view.probability < 0.5:
        yield "The network is not confident: the top probability is below 0.5."
    measured = [entry for entry in report.methods if entry.curves is not None]
    if measured:
        low = min(measured, key=lambda entry: _aucs(entry)[0])
        high = max(measured, key=lambda entry: _aucs(entry)[1])
        yield (
            f"Lowest deletion AUC: {title(program, low.method)} ({_aucs(low)[0]:.3f}). "
            f"Highest insertion AUC: {title(program, high.method)} ({_aucs(high)[1]:.3f})."
        )
    failed = [title(program, entry.method) for entry in report.methods if entry.reason]
    if failed:
        yield f"Failed on this photo: {', '.join(failed)}."
    if report.control is not None:
        yield f"Sanity check: {check_words(program, report.methods, report.control)}"
    if isinstance(report.graph, GraphedPhoto):
        yield graph_words(program, report.graph)


# ---------------------------------------------------------------------------------------------------------
# Heatmaps


def _overlay(report: PhotoReport, importance: np.ndarray) -> np.ndarray:
    limits = overlay.robust_range(importance)
    return overlay.overlay(report.view.pixels, importance, _ALPHA, limits=limits)


def _card(program: ReportProgram, report: PhotoReport, entry: MethodReport) -> pages.Card:
    name = title(program, entry.method)
    description = program.specs[entry.method].description
    if entry.method.startswith(ABLATION):
        description = f"An ablation of iGOS++. {description}"
    if entry.importance is None or entry.curves is None:
        return pages.Card(name, description, reason=entry.reason)
    deletion_auc, insertion_auc = _aucs(entry)
    return pages.Card(
        name,
        description,
        pages.Picture(_overlay(report, entry.importance), f"heatmap of {name} over the photo"),
        pages.Curve(entry.curves.fraction, entry.curves.deletion, deletion_auc),
        pages.Curve(entry.curves.fraction, entry.curves.insertion, insertion_auc),
        _reading(entry),
        verdict(entry.check),
    )


def _reading(entry: MethodReport) -> str:
    """Describe the curves at the point where a fifth of the cells are hidden or shown."""
    assert entry.curves is not None
    fraction, deletion, insertion = (np.asarray(part) for part in entry.curves[:3])
    index = int(np.argmax(fraction >= _HEAD - 1e-6))
    p = [pages.probability_text(float(value)) for value in (deletion[0], deletion[index], insertion[index])]
    return (
        f"Hiding the {fraction[index]:.0%} of the cells that this map ranks highest changes p from {p[0]} to "
        f"{p[1]}; showing only those cells gives {p[2]}."
    )


# ---------------------------------------------------------------------------------------------------------
# The sanity check


def verdict(check: SanityCheck | None) -> pages.Verdict:
    """Return the verdict of the sanity check on one map.

    Example:
      >>> [verdict(SanityCheck(None, similarity, False)) for similarity in (0.1, 0.6, 1.0)]
      ['passes', 'unclear', 'fails']
    """
    if check is None or math.isnan(check.similarity):
        return "n/a"
    return "passes" if check.similarity < PASSES else "fails" if check.similarity >= FAILS else "unclear"


def verdict_words(check: SanityCheck, control: bool) -> str:
    """Describe the verdict of the sanity check on one map."""
    result = verdict(check)
    if result == "n/a":
        return "could not be computed"
    if control:
        return "fails, as expected" if result == "fails" else f"{result}, but should fail"
    if check.constant:
        return "passes: the map becomes constant"
    return {
        "passes": "passes: the map is different",
        "unclear": "unclear: part of the map does not depend on what the network has learned",
        "fails": "fails: nearly the same map, although the parameters are shuffled",
    }[result]


def check_words(program: ReportProgram, methods: Sequence[MethodReport], control: MethodReport | None) -> str:
    """Summarize the sanity checks of all methods in words."""
    by_verdict: dict[pages.Verdict, list[str]] = {}
    for entry in methods:
        if entry.check is not None and entry.method != CONTROL:
            by_verdict.setdefault(verdict(entry.check), []).append(title(program, entry.method))
    passed = len(by_verdict.get("passes", []))
    total = sum(map(len, by_verdict.values()))
    parts = (
        [f"{passed} of {_count(total, 'method')} pass{'es' * (passed == 1 or total == 1)}."] if total else []
    )
    if "fails" in by_verdict:
        parts.append(f"Do not read these as explanations: {', '.join(by_verdict['fails'])}.")
    if "unclear" in by_verdict:
        parts.append(f"Read with care: {', '.join(by_verdict['unclear'])}.")
    if control is None or verdict(control.check) != "fails":
        parts.append("The control did not fail as it should, so the check is inconclusive on this photo.")
    else:
        parts.append("The control, an edge detector, fails as expected.")
    return " ".join(parts)


def _checks(program: ReportProgram, report: PhotoReport) -> Iterator[pages.CheckedMap]:
    """Yield the checked map of the control, then those of all methods that have a map."""
    if report.control is None:
        return
    for entry in [report.control, *(entry for entry in report.methods if entry.method != CONTROL)]:
        if entry.importance is None or entry.check is None:
            continue
        name, control, after = title(program, entry.method), entry.method == CONTROL, entry.check.importance
        caption = "shuffled: constant" if entry.check.constant else "shuffled"
        yield pages.CheckedMap(
            f"{name} (control)" if control else name,
            pages.Picture(_overlay(report, entry.importance), f"{name}, trained network", "trained"),
            None
            if after is None
            else pages.Picture(_overlay(report, after), f"{name}, shuffled network", caption),
            entry.check.similarity,
            verdict(entry.check),
            verdict_words(entry.check, control),
            control,
        )


# ---------------------------------------------------------------------------------------------------------
# The attention graph


def _graph_part(program: ReportProgram, report: PhotoReport) -> pages.GraphPart | str | None:
    graphed = report.graph
    if not isinstance(graphed, GraphedPhoto):
        return graphed
    pixels, grid = graphed.view.pixels, graphed.graph.grid
    photo = pages.Picture(pixels, "the photo with all patches", "The whole photo: 100% of the score.")
    everything = tuple(range(grid[0] * grid[1]))
    shown = enumerate(_shown(graphed), 1)
    pictures = (_explanation_picture(graphed, number, *explanation) for number, explanation in shown)
    return pages.GraphPart(
        graphs.draw(graphed.graph.pruned(MAX_CHILDREN), pixels, graphed.hidden),
        (_patch_picture(photo, everything, grid), *pictures),
        graph_words(program, graphed),
    )


def _shown(graphed: GraphedPhoto) -> list[tuple[tuple[int, ...], float]]:
    """Return (patches, share) of the explanations to show: those in the graph, then the least similar."""
    result = graphed.result
    shares = {
        tuple(np.flatnonzero(result.explanations[row]).tolist()): float(result.relative[row])
        for row in np.flatnonzero(result.valid)
    }
    shown = {node.patches: node.relative for node in graphed.graph.explanations}
    while len(shown) < min(_PICTURES, len(shares)):
        others = [patches for patches in shares if patches not in shown]
        next_patches = min(others, key=lambda patches: _largest_overlap(patches, shown))
        shown[next_patches] = shares[next_patches]
    return list(shown.items())


def _largest_overlap(patches: tuple[int, ...], others: Iterable[tuple[int, ...]]) -> int:
    return max((len(set(patches) & set(other)) for other in others), default=0)


def _explanation_picture(
    graphed: GraphedPhoto, number: int, patches: tuple[int, ...], share: float
) -> pages.PatchPicture:
    grid = graphed.graph.grid
    names = graphs.patch_names(patches, ", ")
    picture = pages.Picture(
        graphs.masked_photo(graphed.view.pixels, graphed.hidden, patches, grid),
        f"the photo with only the patches of explanation {number} visible",
        f"Explanation {number}: {names} keep{'s' * (len(patches) < 2)} {share:.0%} of the score.",
    )
    return _patch_picture(picture, patches, grid)


def _patch_picture(
    picture: pages.Picture, patches: tuple[int, ...], grid: tuple[int, int]
) -> pages.PatchPicture:
    boxes = graphs.outlines(grid)
    return pages.PatchPicture(picture, tuple((patch, boxes[patch]) for patch in patches))


def graph_words(program: ReportProgram, graphed: GraphedPhoto) -> str:
    """Summarize the search for sufficient patches in one or two sentences."""
    sizes, drawn, (rows, cols) = graphed.summary.sizes, len(graphed.graph.explanations), graphed.graph.grid
    if not sizes:
        return f"No small set of patches suffices: {graphed.status.message}."
    kept = f"at least {graphed.graph.threshold:.0%} of the score"
    if len(sizes) == 1:
        return f"One minimal set of patches suffices: {sizes[0]} of {rows * cols} patches alone keep {kept}."
    span = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    more = " or more" if graphed.status in (Status.BUFFER_FULL, Status.BUDGET_SPENT) else ""
    which = f" The graph shows {drawn} of them{_selection(program, graphed)}." if drawn < len(sizes) else ""
    return (
        f"{len(sizes)}{more} minimal sets of patches suffice: in each, {span} of {rows * cols} patches alone "
        f"keep {kept}.{which}"
    )


def _selection(program: ReportProgram, graphed: GraphedPhoto) -> str:
    """Describe how the explanations in the graph were chosen."""
    assert isinstance(program.graphs, GraphProgram)
    overlap = program.graphs.settings.max_overlap
    shared = f"{overlap} patch{'es' * (overlap != 1)}"
    if len(graphed.graph.explanations) > 1:
        return f", which share at most {shared}"
    return f", because any two share more than {shared}" if graphed.summary.exact else ""


# ---------------------------------------------------------------------------------------------------------
# Settings and timings


def _figures(program: ReportProgram, report: PhotoReport) -> pages.Figures:
    sanity = program.settings.sanity
    head = ["method", "deletion AUC", "insertion AUC", *(["similarity, shuffled"] if sanity else [])]
    rows = [_row(program, entry) for entry in report.methods]
    best = set()
    for column, pick in ((1, min), (2, max)):
        cells = [row[column] for row in rows if row[column] != "-"]
        best |= {(index, column) for index, row in enumerate(rows) if cells and row[column] == pick(cells)}
    if isinstance(report.graph, GraphedPhoto):
        rows.append(_graph_row(program, report.graph))
    head += ["model evaluations", "seconds", "seconds to compile"]
    return pages.Figures(tuple(head), tuple(rows), frozenset(best))


def _row(program: ReportProgram, entry: MethodReport) -> tuple[str, ...]:
    aucs = ("-", "-") if entry.curves is None else tuple(f"{auc:.3f}" for auc in _aucs(entry))
    similarity = (
        (pages.probability_text(entry.check.similarity) if entry.check else "-",)
        if program.settings.sanity
        else ()
    )
    cost = "-" if entry.evaluations is None else f"{entry.evaluations:,}"
    seconds = f"{entry.seconds:.2f}" if entry.seconds else "-"
    return (title(program, entry.method), *aucs, *similarity, cost, seconds, f"{entry.compile_seconds:.1f}")


def _graph_row(program: ReportProgram, graphed: GraphedPhoto) -> tuple[str, ...]:
    assert isinstance(program.graphs, GraphProgram)
    blank = ["-"] * (3 if program.settings.sanity else 2)
    evaluations = f"{int(graphed.result.evaluations):,}"
    seconds = f"{sum(graphed.seconds.values()):.2f}"
    return ("Attention graph", *blank, evaluations, seconds, f"{program.graphs.compile_seconds:.1f}")


def _facts(program: ReportProgram, photo: Photo, report: PhotoReport) -> Iterator[tuple[str, str]]:
    settings, classifier, made = program.settings, program.engine.classifier, origin(photo)
    rows, cols = classifier.spec.size
    height, width = photo.rgb.shape[:2]
    yield "photo", f"{photo.path.name}, {width} x {height} pixels"
    if photo.white_level is not None:
        yield "white level", f"{photo.white_level:.10g}"
    yield "SHA-256 of its file", photo.sha256
    yield "network", f"{classifier.name}, input {rows} x {cols}, {len(classifier.labels)} classes"
    yield "digest of its weights", weights_digest(classifier)
    label = program.engine.label(report.view)
    yield "explained", f"probability of {label} ({report.view.target})"
    yield "baseline", f"{settings.baseline}, the same for all maps, curves and the graph"
    yield "maps", f"{settings.size} x {settings.size} cells, curves of about {settings.curve_steps} steps"
    yield "seed", str(settings.seed)
    if isinstance(report.graph, GraphedPhoto) and isinstance(program.graphs, GraphProgram):
        search = program.graphs.settings
        yield (
            "attention graph",
            f"grid {search.grid[0]} x {search.grid[1]}, beam width {search.beam_width}, "
            f"{search.candidates or 'all'} candidates, up to {search.max_size} patches; "
            f"search: {report.graph.status.name.lower().replace('_', ' ')}",
        )
    yield (
        "time",
        f"{report.seconds:.1f} s for this photo; {program.compile_seconds:.1f} s to compile, for all photos",
    )
    yield "software", f"jaxplain {made['jaxplain']}, jax {made['jax']}, {made['device']}"
    yield "command", _command(program, photo, report)


def _command(program: ReportProgram, photo: Photo, report: PhotoReport) -> str:
    """Return the command that reproduces the report, with the photo's file name instead of its path."""
    settings = program.settings
    words = ["jaxplain", "report", photo.path.name, "--model", program.engine.classifier.name]
    words += ["--target", str(report.view.target), "--methods", ",".join(settings.methods)]
    words += ["--size", str(settings.size), "--baseline", settings.baseline, "--seed", str(settings.seed)]
    words += ["--no-sanity"] * (not settings.sanity) + ["--no-sag"] * (not settings.sag)
    words += [] if photo.white_level is None else ["--white-level", f"{photo.white_level:.10g}"]
    return shlex.join(words)
