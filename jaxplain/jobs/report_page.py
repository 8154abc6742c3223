"""Reports in words and pictures: from what was computed to the page."""

import shlex
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

import jaxplain
from jaxplain import render
from jaxplain.jobs.features import weights_digest
from jaxplain.jobs.photos import Photo
from jaxplain.jobs.records import origin
from jaxplain.jobs.report import CONTROL, Found, PhotoReport, ReportProgram
from jaxplain.jobs.report_graph import graph_of, graph_words
from jaxplain.jobs.report_words import about, check_words, limits, title, verdict, verdict_words
from jaxplain.jobs.sag import SagExplanation, SagProgram
from jaxplain.render import report as parts

_CHOICES = 5  # classes that are shown
_CLIPPED = 1.0  # percent of a map's values at each end that are shown in the last colour
_STRENGTH = 0.6  # of a map over its photo
_HEAD = 0.2  # share of the cells that a card speaks of


def page(program: ReportProgram, sections: Sequence[parts.Section], notes: Iterable[str] = ()) -> str:
    """The whole page of what `report` made; notes say which photos could not be explained."""
    job, name = program.job, program.classifier.name
    several = len(sections) != 1
    methods = f"{len(job.methods)} method{'s' * (len(job.methods) != 1)}"
    texts = limits(job.baseline, job.size, job.sanity, job.sag)
    return render.report_page(
        sections,
        title=f"Why {name} decides as it does" if several else f"Why {name} says {sections[0].label}",
        summary=f"{f'{len(sections)} photos, each' if several else 'One photo,'} explained by {methods}.",
        limits=texts,
        notes=notes,
        made=f"Made with jaxplain {jaxplain.__version__}, jax {jax.__version__}. This file needs no other.",
    )


def report(program: ReportProgram, photo: Photo, found: PhotoReport) -> parts.Report:
    """One photo's part of the page."""
    label = program.classifier.labels[found.target]
    checks = tuple(_checks(found))
    return parts.Report(
        title=photo.path.name,
        label=label,
        probability=float(found.probabilities[found.target]),
        photo=parts.Picture(found.seen, f"the photo {photo.path.name}", "The photo as the network sees it."),
        findings=tuple(_findings(program, found)),
        choices=tuple(_choices(program, found)),
        cards=tuple(_card(found.seen, one) for one in found.maps),
        checks=checks,
        check_words=check_words(found.maps, found.control),
        graph=graph_of(program, found),
        figures=_figures(program, found),
        facts=tuple(_facts(program, photo, found)),
    )


def _choices(program: ReportProgram, found: PhotoReport) -> Iterator[parts.Choice]:
    """The most probable classes, and the explained one where it is not among them."""
    first = np.argsort(-found.probabilities)[:_CHOICES].tolist()
    for index in [*first, *([] if found.target in first else [found.target])]:
        label = program.classifier.labels[index]
        yield parts.Choice(label, float(found.probabilities[index]), index == found.target)


# ---------------------------------------------------------------------------------------------------------
# In short


def _findings(program: ReportProgram, found: PhotoReport) -> Iterator[str]:
    labels, order = program.classifier.labels, np.argsort(-found.probabilities)
    top, second = int(order[0]), int(order[1])
    says = f"{program.classifier.name} says {labels[top]} (p = {_p(found.probabilities[top])}), "
    yield f"{says}then {labels[second]} ({_p(found.probabilities[second])})."
    if found.target != top:
        chance = _p(found.probabilities[found.target])
        yield f"Explained is {labels[found.target]} (p = {chance}), which is not its first choice."
    elif found.probabilities[top] < 0.5:
        yield "It is not sure, so that the maps explain a guess."
    measured = [one for one in found.maps if one.curves is not None]
    if measured:
        low = min(measured, key=lambda one: _areas(one)[0])
        high = max(measured, key=lambda one: _areas(one)[1])
        yield (
            f"Lowest deletion area: {title(low.method)} ({_areas(low)[0]:.3f}). "
            f"Highest insertion area: {title(high.method)} ({_areas(high)[1]:.3f})."
        )
    failed = [title(one.method) for one in found.maps if one.reason]
    if failed:
        yield f"Failed on this photo: {', '.join(failed)}."
    if found.control is not None:
        yield f"Sanity check: {check_words(found.maps, found.control)}"
    if isinstance(found.sag, SagExplanation):
        yield graph_words(program, found.sag)


def _p(probability: float) -> str:
    return parts.written(float(probability))


def _areas(one: Found) -> tuple[float, float]:
    assert one.curves is not None
    return float(one.curves.deletion_area), float(one.curves.insertion_area)


# ---------------------------------------------------------------------------------------------------------
# Heatmaps and the sanity check


def _overlay(seen: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    low, high = np.percentile(saliency.astype(np.float64), [_CLIPPED, 100 - _CLIPPED])
    return render.overlay(seen, saliency, _STRENGTH, "jet", *((low, high) if high > low else (None, None)))


def _card(seen: np.ndarray, one: Found) -> parts.Card:
    if one.saliency is None or one.curves is None:
        return parts.Card(title(one.method), about(one.method), reason=one.reason)
    curves = one.curves
    return parts.Card(
        title(one.method),
        about(one.method),
        parts.Picture(_overlay(seen, one.saliency), f"heatmap of {title(one.method)} over the photo"),
        render.Curve(curves.fraction, curves.deletion, float(curves.deletion_area)),
        render.Curve(curves.fraction, curves.insertion, float(curves.insertion_area)),
        _reading(one),
        verdict(one.check),
    )


def _reading(one: Found) -> str:
    """What the curves say of the first tenth of the cells."""
    assert one.curves is not None
    fraction, deletion, insertion = (np.asarray(part) for part in one.curves[:3])
    at = int(np.argmax(fraction >= _HEAD - 1e-6))
    return (
        f"Hiding the {fraction[at]:.0%} that this map calls most important takes p from {_p(deletion[0])} to "
        f"{_p(deletion[at])}; showing only them gives {_p(insertion[at])}."
    )


def _checks(found: PhotoReport) -> Iterator[parts.Check]:
    """The control first, then all methods that have a map."""
    if found.control is None:
        return
    for one in [found.control, *(one for one in found.maps if one.method != CONTROL)]:
        if one.saliency is None or one.check is None:
            continue
        after, name, control = one.check.saliency, title(one.method), one.method == CONTROL
        left = "shuffled: nothing left" if one.check.flat else "shuffled"
        yield parts.Check(
            f"{name} (control)" if control else name,
            parts.Picture(_overlay(found.seen, one.saliency), f"{name}, trained network", "trained"),
            None
            if after is None
            else parts.Picture(_overlay(found.seen, after), f"{name}, shuffled network", left),
            one.check.rank,
            verdict(one.check),
            verdict_words(one.check, control),
            control,
        )


# ---------------------------------------------------------------------------------------------------------
# Settings and timings


def _figures(program: ReportProgram, found: PhotoReport) -> parts.Figures:
    sanity = program.job.sanity
    head = ["method", "deletion", "insertion", *(["alike shuffled"] if sanity else [])]
    rows = [_row(one, sanity) for one in found.maps]
    best = set()
    for col, pick in ((1, min), (2, max)):
        cells = [row[col] for row in rows if row[col] != "-"]
        best |= {(at, col) for at, row in enumerate(rows) if cells and row[col] == pick(cells)}
    if isinstance(found.sag, SagExplanation):
        rows.append(_sag_row(program, found.sag, sanity))
    head += ["model evaluations", "seconds", "seconds to compile"]
    return parts.Figures(tuple(head), tuple(rows), frozenset(best))


def _row(one: Found, sanity: bool) -> tuple[str, ...]:
    areas = ("-", "-") if one.curves is None else tuple(f"{area:.3f}" for area in _areas(one))
    alike = (parts.written(one.check.rank) if one.check else "-",) if sanity else ()
    cost = "-" if one.evaluations is None else f"{one.evaluations:,}"
    run = f"{one.seconds:.2f}" if one.seconds else "-"
    return (title(one.method), *areas, *alike, cost, run, f"{one.compile_seconds:.1f}")


def _sag_row(program: ReportProgram, sag: SagExplanation, sanity: bool) -> tuple[str, ...]:
    assert isinstance(program.sag, SagProgram)
    blank = ("-", "-", *(("-",) if sanity else ()))
    seconds = sum(sag.seconds.values())
    evaluations = f"{int(sag.roots.evaluations):,}"
    return ("Attention graph", *blank, evaluations, f"{seconds:.2f}", f"{program.sag.compile_seconds:.1f}")


def _facts(program: ReportProgram, photo: Photo, found: PhotoReport) -> Iterator[tuple[str, str]]:
    job, classifier, made = program.job, program.classifier, origin(photo)
    rows, cols = classifier.spec.size
    height, width = photo.rgb.shape[:2]
    yield "photo", f"{photo.path.name}, {width} x {height} pixels"
    yield "SHA-256 of its file", photo.sha256
    yield "network", f"{classifier.name}, input {rows} x {cols}, {len(classifier.labels)} classes"
    yield "digest of its weights", weights_digest(classifier)
    yield "explained", f"softmax probability of {classifier.labels[found.target]} ({found.target})"
    yield "baseline", job.baseline
    yield "maps", f"{job.size} x {job.size} cells, curves of about {job.curve_steps} steps"
    yield "seed", str(job.seed)
    if isinstance(found.sag, SagExplanation) and isinstance(program.sag, SagProgram):
        graphs = program.sag.job
        yield (
            "attention graph",
            f"grid {graphs.grid[0]} x {graphs.grid[1]}, beam {graphs.beam_width}, "
            f"{graphs.candidates or 'all'} candidates, up to {graphs.max_size} patches; "
            f"search: {found.sag.status.name.lower().replace('_', ' ')}",
        )
    yield (
        "time",
        f"{found.seconds:.1f} s for this photo, after {program.compile_seconds:.1f} s of compilation for all",
    )
    yield "software", f"jaxplain {made['jaxplain']}, jax {made['jax']}, {made['device']}"
    yield "command", _command(program, photo, found)


def _command(program: ReportProgram, photo: Photo, found: PhotoReport) -> str:
    """The command that makes it again; the photo by its name only."""
    job = program.job
    words = ["jaxplain", "report", photo.path.name, "--model", program.classifier.name]
    words += ["--target", str(found.target), "--methods", ",".join(job.methods), "--size", str(job.size)]
    words += ["--baseline", job.baseline, "--seed", str(job.seed)]
    words += ["--no-sanity"] * (not job.sanity) + ["--no-sag"] * (not job.sag)
    return shlex.join(words)
