"""One classifier, one method after the other: explain each photo, measure the map, make the rows."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.compare.measures import MEASURES, Evidence
from jaxplain.compare.methods import Method
from jaxplain.compare.program import (
    Explained,
    Program,
    at_size,
    compile_method,
    forgetful,
    measure,
    method_key,
    values,
)
from jaxplain.compare.rows import FAILED, OK, MapFolder, Row, RowFile
from jaxplain.compare.settings import Settings
from jaxplain.files import OutputError
from jaxplain.images import load_image
from jaxplain.jobs.features import weights_digest
from jaxplain.jobs.photos import photo_key
from jaxplain.jobs.records import number, numbers, told
from jaxplain.masks import Status
from jaxplain.perturb import baseline
from jaxplain.scores import top_class
from jaxplain.zoo import Classifier


class _Subject(NamedTuple):
    """One photo as one classifier sees it."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    target: Array  # int32 []
    key: Array
    probability: float


class Stage(NamedTuple):
    """What one program is run for."""

    classifier: Classifier
    name: str  # of the method
    method: Method
    own_size: int | None  # what the method is told; None where it takes none
    sizes: tuple[int, ...]  # what its map is measured at


class Bench:
    """A classifier, and what all methods share on it."""

    def __init__(
        self,
        settings: Settings,
        classifier: Classifier,
        rows: RowFile,
        maps: MapFolder,
        kept: frozenset[str],
    ) -> None:
        self.settings, self.classifier, self.rows, self.maps, self.kept = (
            settings,
            classifier,
            rows,
            maps,
            kept,
        )
        self.digest = weights_digest(classifier)
        self._forgetful: Classifier | None = None
        self._top = jax.jit(
            lambda model, image: (top_class(model, image), jax.nn.softmax(model(image[None])))
        )
        self._tops: dict[str, tuple[int, float]] = {}

    def run(self, stage: Stage, files: Mapping[str, Path], tell: Callable[[str, int], None]) -> None:
        """All rows of one program that are not there yet."""
        missing = [sha for sha in files if any(not self._done(stage, sha, size) for size in stage.sizes)]
        tell(stage.name, len(stage.sizes) * (len(files) - len(missing)))
        if not missing:
            return
        tell(f"compiling {stage.name}", 0)
        try:
            program: Program | Exception = compile_method(stage.method, stage.classifier, stage.own_size)
        except Exception as error:  # a user's method may raise anything; its rows say what
            program = error
        for sha in missing:
            tell(f"{stage.name} {files[sha].name}", 0)
            for row in self._photo(stage, program, sha, files[sha]):
                self.rows.add(row)
            tell(stage.name, len(stage.sizes))

    def _done(self, stage: Stage, sha: str, size: int) -> bool:
        key = (sha, self.classifier.name, self.digest, stage.name, size)
        return self.rows.done(key) and (sha not in self.kept or self.maps.get(key) is not None)

    def _photo(self, stage: Stage, program: Program | Exception, sha: str, path: Path) -> list[Row]:
        """The rows of one photo: one for each size."""
        blank = [
            Row(path.name, sha, self.classifier.name, self.digest, stage.name, size, FAILED)
            for size in stage.sizes
        ]
        if isinstance(program, Exception):
            return [_failed(row, told(program)) for row in blank]
        try:
            subject = self._subject(sha, path)
            return list(self._explained(stage, program, subject, blank))
        except OutputError:  # nothing more can be kept: the run ends, with what it has
            raise
        except Exception as error:
            return [_failed(row, told(error)) for row in blank]

    def _subject(self, sha: str, path: Path) -> _Subject:
        seen = self.classifier.crop_and_resize(load_image(path))
        image = self.classifier.normalize(seen)
        baseline_key, key = jax.random.split(photo_key(self.settings.seed, seen))
        background = baseline(
            self.settings.baseline, image, normalize=self.classifier.normalize, key=baseline_key
        )
        if sha not in self._tops:
            top, probabilities = self._top(self.classifier, image)
            self._tops[sha] = int(top), float(probabilities[0, top])
        target, probability = self._tops[sha]
        return _Subject(image, background, jnp.int32(target), key, probability)

    def _explained(
        self, stage: Stage, program: Program, subject: _Subject, blank: list[Row]
    ) -> Iterator[Row]:
        explained, seconds = _timed(program, stage, self.classifier, subject)
        status, label = Status(int(explained.status)), self.classifier.labels[int(subject.target)]
        evaluations = int(explained.evaluations)
        for row in blank:
            row = replace(
                row,
                label=label,
                probability=number(subject.probability),
                seconds=round(seconds, 4),
                evaluations=None if evaluations < 0 else evaluations,
            )
            saliency = at_size(np.asarray(explained.saliency), row.size)
            if status is not Status.OK:
                yield _failed(row, status.message)
            elif np.ptp(saliency) == 0:
                yield _failed(row, "the map is the same everywhere")
            else:
                yield self._measured(stage, program, subject, row, saliency)

    def _measured(
        self, stage: Stage, program: Program, subject: _Subject, row: Row, saliency: np.ndarray
    ) -> Row:
        found = measure(
            self.classifier,
            subject.image,
            subject.baseline,
            subject.target,
            saliency,
            steps=self.settings.curve_steps,
        )
        seen = Evidence(
            jnp.asarray(saliency),
            found.curves,
            found.confidence,
            **self._extras(stage, program, subject, row.size),
        )
        figures = values(seen, self.settings.measures)
        if row.sha256 in self.kept:
            self.maps.add(row.key, saliency)
        return replace(
            row,
            status=OK,
            values={name: number(figures[name]) for name in self.settings.measures},
            fraction=numbers(found.curves.fraction),
            deletion=numbers(found.curves.deletion),
            insertion=numbers(found.curves.insertion),
        )

    def _extras(
        self, stage: Stage, program: Program, subject: _Subject, size: int
    ) -> dict[str, Array | None]:
        """Further explanations that the measures ask for, by the same program."""
        needs = {MEASURES[name].needs for name in self.settings.measures}
        extras: dict[str, Array | None] = {}
        if "forgetful" in needs:
            explained, _ = _timed(program, stage, self._forgotten(subject.image), subject)
            extras["forgetful"] = jnp.asarray(at_size(np.asarray(explained.saliency), size))
        if "other_class" in needs:
            other = subject._replace(target=_other_class(subject, len(self.classifier.labels)))
            explained, _ = _timed(program, stage, self.classifier, other)
            extras["other_class"] = jnp.asarray(at_size(np.asarray(explained.saliency), size))
        return extras

    def _forgotten(self, image: Array) -> Classifier:
        """The classifier with all parameters shuffled, the same for all photos."""
        if self._forgetful is None:
            self._forgetful = forgetful(self.classifier, image, self.settings.seed)
        assert self._forgetful is not None
        return self._forgetful


def _timed(
    program: Program, stage: Stage, classifier: Classifier, subject: _Subject
) -> tuple[Explained, float]:
    start = time.perf_counter()
    key = method_key(subject.key, stage.name)
    found = program.run(classifier, subject.image, subject.baseline, subject.target, key)
    return jax.block_until_ready(found), time.perf_counter() - start


def _other_class(subject: _Subject, classes: int) -> Array:
    """A class drawn at random among all others."""
    step = jax.random.randint(method_key(subject.key, "other class"), (), 1, classes)
    return ((subject.target + step) % classes).astype(jnp.int32)


def _failed(row: Row, reason: str) -> Row:
    return replace(row, status=FAILED, reason=reason)
