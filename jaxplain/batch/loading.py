"""Images read ahead in threads, so that the devices need not wait for files."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from jaxplain.batch.dataset import Example, Task
from jaxplain.batch.program import Inputs, inputs_of
from jaxplain.images import ImageError
from jaxplain.jobs.records import told


class Loaded(NamedTuple):
    """A row's image, or why there is none."""

    row: int
    identity: str
    example: Example | None
    reason: str = ""


class Group(NamedTuple):
    """Images of one step, and the rows that failed before it."""

    good: list[Loaded]
    bad: list[Loaded]


def load_groups(tasks: Iterable[Task], inputs: Inputs, size: int, threads: int) -> Iterator[Group]:
    """Read images in their order, `size` readable ones a group; never more than two groups are held."""
    good: list[Loaded] = []
    bad: list[Loaded] = []
    for one in _read_ahead(tasks, inputs, threads, ahead=max(size, threads)):
        (bad if one.example is None else good).append(one)
        if len(good) == size or len(bad) == size:
            yield Group(good, bad)
            good, bad = [], []
    if good or bad:
        yield Group(good, bad)


def _read_ahead(tasks: Iterable[Task], inputs: Inputs, threads: int, ahead: int) -> Iterator[Loaded]:
    tasks = iter(tasks)
    with ThreadPoolExecutor(threads, thread_name_prefix="jaxplain-load") as pool:
        reading: deque[Future[Loaded]] = deque(
            pool.submit(load, task, inputs) for task in islice(tasks, ahead)
        )
        try:
            while reading:
                yield reading.popleft().result()
                reading.extend(pool.submit(load, task, inputs) for task in islice(tasks, 1))
        finally:
            for future in reading:
                future.cancel()


def load(task: Task, inputs: Inputs | None) -> Loaded:
    """Read one image and see that it is like the others of the run; what is wrong becomes the reason."""
    try:
        example = task.load()._replace(identity=task.identity)
        reason = _unlike(example, inputs)
    except ImageError as error:
        reason = str(error)
    except Exception as error:  # a user's dataset may raise anything; the row says what
        reason = told(error)
    return (
        Loaded(task.row, task.identity, None, reason) if reason else Loaded(task.row, task.identity, example)
    )


def _unlike(example: Example, inputs: Inputs | None) -> str:
    found = inputs_of(example)
    if inputs is not None and found != inputs:
        return (
            f"the image is {found.dtype} {found.shape}, unlike the run's first, {inputs.dtype} {inputs.shape}"
        )
    if found.dtype == "float32" and not np.isfinite(example.image).all():
        return "the image holds NaN or infinite values"
    return ""
