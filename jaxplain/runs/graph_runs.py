"""Attention graphs of photos, for `jaxplain sag` and `jaxplain sag-stats`."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxplain import sag
from jaxplain.checks import check_choice, check_positive_int, check_seed
from jaxplain.explanation import Status
from jaxplain.perturb import BASELINES
from jaxplain.runs.photos import Photo, visible_folders
from jaxplain.runs.records import number, numbers, origin, to_json
from jaxplain.runs.step import Engine, Program, Step, View
from jaxplain.runs.subject import Subject
from jaxplain.scores import KINDS, ScoreKind, class_score, kind_of_probability

RECORD = "sag.json"  # the file that marks a folder as a result
EXPAND_ABOVE = 0.4  # fraction of the image's score
MAX_CHILDREN = 3  # maximum number of children drawn per node


@dataclass(frozen=True)
class GraphSettings:
    """Settings applied to every photo of a run.

    Raises:
      ValueError, TypeError: a name is unknown (the message suggests the nearest) or a number is out of range.
    """

    grid: tuple[int, int] = (7, 7)
    beam_width: int = 5
    candidates: int | None = 15  # patches tried as extensions of each set, best first; None for all
    threshold: float = 0.9
    max_size: int = 20
    max_explanations: int = 30
    max_overlap: int = 1  # maximum number of patches that two explanations in the graph may share
    shown: int = 3  # maximum number of explanations in the graph
    target: int | None = None  # class index; if None, each photo's top prediction
    baseline: str = "blur"
    kind: ScoreKind | None = None  # which score is explained; if None, the class's probability
    seed: int = 0  # random seed of a random baseline
    batch_size: int | None = None  # images per model call; if None, chosen by platform

    def __post_init__(self) -> None:
        check_choice(self.baseline, BASELINES, "baseline")
        if self.kind is not None:
            check_choice(self.kind, KINDS, "score kind")
        check_seed(self.seed)
        for name in ("beam_width", "max_size", "max_explanations", "shown"):
            check_positive_int(getattr(self, name), name)
        for name in ("candidates", "batch_size"):
            if getattr(self, name) is not None:
                check_positive_int(getattr(self, name), name)
        for side in self.grid:
            check_positive_int(side, "grid")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {self.threshold}.")
        if self.max_overlap < 0:
            raise ValueError(f"max_overlap must be at least 0, got {self.max_overlap}.")


class GraphProgram(NamedTuple):
    """Programs compiled for a classifier and reused for every photo in a run."""

    settings: GraphSettings
    engine: Engine
    program: Program
    compile_seconds: float


class GraphedPhoto(NamedTuple):
    """The minimal sufficient explanations of one photo, and their graph."""

    view: View
    hidden: np.ndarray  # uint8 [H, W, 3], the baseline as an image
    label: str
    result: sag.SearchResult  # all explanations found
    diverse: sag.DiverseSubset  # the largest subset with limited overlap
    graph: sag.AttentionGraph  # graph of the first few explanations in the subset
    summary: sag.Summary
    seconds: dict[str, float]  # "search" and "graph"

    @property
    def status(self) -> Status:
        """Status of the search."""
        return Status(int(self.result.status))


def check_grid(settings: GraphSettings, classifier: Any) -> None:
    """Reject settings that do not fit a classifier, before starting a long computation.

    Raises:
      ValueError: the target is not one of the classifier's classes, or the grid is finer than the
        classifier's input.
    """
    Engine(classifier).check_target(settings.target)
    (rows, cols), (height, width) = settings.grid, classifier.spec.size
    if rows > height or cols > width:
        raise ValueError(
            f"a grid of {rows} x {cols} is finer than the input of {classifier.name}, "
            f"{height} x {width} pixels; choose a smaller grid, usually 7 to 14."
        )


def search_step(settings: GraphSettings) -> Step:
    """Return the step that searches for a subject's explanations; its value is a `jaxplain.sag.SearchResult`.

    The map that proposes the candidates is computed in the same program.
    """
    shared: dict[str, Any] = {"grid": settings.grid, "batch_size": settings.batch_size}
    options: dict[str, Any] = {
        name: getattr(settings, name) for name in ("beam_width", "threshold", "max_size", "max_explanations")
    }

    def run(classifier: Any, subject: Subject) -> sag.SearchResult:
        score = class_score(classifier, subject.target, settings.kind or kind_of_probability(classifier))
        image, baseline = subject.image, subject.baseline
        arguments = shared | options
        if settings.candidates is not None:
            proposal = sag.proposal_map(score, image, baseline, **shared)
            arguments |= {"proposal": proposal, "candidates": settings.candidates}
        return sag.search(score, image, baseline, **arguments)

    compiled_in = replace(settings, target=None, seed=0, max_overlap=0, shown=1)
    return Step(f"sag {compiled_in}", run)


def compile_graphs(settings: GraphSettings, classifier: Any, engine: Engine | None = None) -> GraphProgram:
    """Compile the programs for these settings and a classifier, for use with all photos and targets.

    Args:
      settings: settings for the search and the graph.
      classifier: a classifier from the zoo.
      engine: an engine with the same classifier, baseline and seed, to share its programs. If None, one is
        created.

    Raises:
      ValueError: the settings do not fit the classifier; see `check_grid`.
    """
    check_grid(settings, classifier)
    start = time.perf_counter()
    if engine is None:
        engine = Engine(classifier, baseline=settings.baseline, seed=settings.seed)
    program = engine.compile(search_step(settings))
    prepared = GraphProgram(settings, engine, program, 0.0)
    _compile_graph(prepared)
    return prepared._replace(compile_seconds=time.perf_counter() - start)


def _compile_graph(program: GraphProgram) -> None:
    """Build a graph of two nodes so that the graph's own program is compiled before the first photo."""
    height, width = program.engine.classifier.spec.size
    view = program.engine.view(np.zeros((height, width, 3), np.uint8))
    blank = jax.tree_util.tree_map(lambda leaf: np.ones(leaf.shape, leaf.dtype), program.program.shapes)
    first = np.zeros(blank.explanations.shape, bool)
    first[0, 0] = True
    _graph(program, view, replace(blank, explanations=first, valid=first.any(1), sizes=first.sum(1)))


def graph_photo(program: GraphProgram, rgb: np.ndarray) -> GraphedPhoto:
    """Find the explanations of one photo (uint8 [H, W, 3], any size) and build their graph."""
    return graph_view(program, program.engine.view(rgb, program.settings.target))


def graph_view(program: GraphProgram, view: View) -> GraphedPhoto:
    """Find the explanations of a prepared photo and build their graph."""
    settings, engine = program.settings, program.engine
    outcome = engine.run(program.program.step, view)
    start = time.perf_counter()
    diverse = sag.diverse_subset(outcome.value, settings.max_overlap)
    graph = _graph(program, view, _first(diverse.result, settings.shown))
    seconds = {"search": outcome.seconds, "graph": time.perf_counter() - start}
    hidden = engine.classifier.denormalize(view.subject.baseline)
    return GraphedPhoto(
        view=view,
        hidden=np.clip(np.rint(hidden), 0, 255).astype(np.uint8),
        label=engine.label(view),
        result=outcome.value,
        diverse=diverse,
        graph=graph,
        summary=sag.summarize(outcome.value, graph),
        seconds=seconds,
    )


def _graph(program: GraphProgram, view: View, result: sag.SearchResult) -> sag.AttentionGraph:
    settings, subject, classifier = program.settings, view.subject, program.engine.classifier
    score = class_score(classifier, view.target, settings.kind or kind_of_probability(classifier))
    return sag.graph(
        score,
        subject.image,
        subject.baseline,
        result,
        expand_above=EXPAND_ABOVE,
        batch_size=settings.batch_size,
    )


def _first(result: sag.SearchResult, count: int) -> sag.SearchResult:
    """Keep the first `count` valid rows: the smallest explanations first, ties broken by highest score."""
    return replace(result, valid=result.valid & (np.cumsum(result.valid) <= count))


# ---------------------------------------------------------------------------------------------------------
# Records


def graph_files(program: GraphProgram, photo: Photo, graphed: GraphedPhoto) -> dict[str, bytes]:
    """Return the files of a result, except for the images and the page.

    The files are sag.dot (the graph with the three children of largest drop per node), logic.txt, and
    sag.json (the record with all explanations and the whole graph).
    """
    return {
        "sag.dot": graphed.graph.pruned(MAX_CHILDREN).to_dot().encode(),
        "logic.txt": (graphed.graph.logic_form() + "\n").encode(),
        RECORD: to_json(_record(program, photo, graphed)),
    }


def read_summaries(folder: Path) -> list[sag.Summary]:
    """Return the summaries of the results in a folder's sub-folders, in alphabetical order.

    Raises:
      ValueError: a record cannot be read; the message names the file.
    """
    summaries = []
    for path in [one / RECORD for one in visible_folders(folder) if (one / RECORD).exists()]:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            summaries.append(sag.Summary.from_dict(record["summary"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} cannot be read: {error}. Recreate it with jaxplain sag, or remove its folder."
            ) from error
    return summaries


def graph_facts(program: GraphProgram, photo: Photo, graphed: GraphedPhoto) -> dict[str, str]:
    """Return the settings and counts shown on the graph's page, keyed by heading."""
    settings = program.settings
    shown, diverse = len(graphed.graph.explanations), int(graphed.diverse.chosen.sum())
    patches = f"{settings.max_overlap} patch{'es' * (settings.max_overlap != 1)}"
    return {
        "photo": photo.path.name,
        "model": program.engine.classifier.name,
        "explained class": f"{graphed.label} ({graphed.view.target})",
        "baseline": settings.baseline,
        "threshold": f"{settings.threshold:.0%} of the photo's score",
        "explanations found": f"{len(graphed.result)} ({graphed.status.message})",
        "shown": f"{shown} of {diverse} that share at most {patches}",
        "beam": f"{settings.beam_width} sets, {settings.candidates or 'all'} candidates, "
        f"up to {settings.max_size} patches",
        "sets scored": str(int(graphed.result.evaluations)),
    }


def _record(program: GraphProgram, photo: Photo, graphed: GraphedPhoto) -> dict[str, Any]:
    settings, classifier, result = program.settings, program.engine.classifier, graphed.result
    kind = settings.kind or kind_of_probability(classifier)
    return {
        **origin(photo),
        "method": "sag",
        "parameters": {k: v for k, v in asdict(settings).items() if k not in ("target", "seed")}
        | {"kind": kind},
        "model": classifier.name,
        "input_size": list(classifier.spec.size),
        "target": {"index": graphed.view.target, "label": graphed.label},
        "score": kind,
        "baseline": settings.baseline,
        "seed": settings.seed,
        "key": jax.random.key_data(graphed.view.subject.key).tolist(),
        "status": graphed.status.name.lower(),
        "probability": number(graphed.view.probability),
        "image_score": number(result.image_score),
        "baseline_score": number(result.baseline_score),
        "summary": graphed.summary.to_dict(),
        "explanations": list(_explanations(result, graphed.diverse.chosen)),
        "logic": graphed.graph.logic_form(),
        "graph": json.loads(graphed.graph.to_json()),
        "levels": int(result.levels),
        "history": {name: numbers(column) for name, column in result.history._asdict().items()},
        "model_evaluations": int(result.evaluations),
        "seconds": {"compile": round(program.compile_seconds, 3)}
        | {name: round(value, 3) for name, value in graphed.seconds.items()},
    }


def _explanations(result: sag.SearchResult, diverse: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield all explanations found; `diverse` marks those in the diverse subset."""
    for row in np.flatnonzero(result.valid):
        yield {
            "patches": np.flatnonzero(result.explanations[row]).tolist(),
            "score": number(result.scores[row]),
            "relative": number(result.relative[row]),
            "diverse": bool(diverse[row]),
        }
