"""Which rows a process has to do, and where their images come from."""

from collections.abc import Iterable, Iterator
from functools import partial

from jaxplain.batch import hosts
from jaxplain.batch.dataset import Dataset, Example, Stream, Task, check_identity, given
from jaxplain.batch.store import ResultStore, RowStatus


class Plan:
    """Which rows this process has to do."""

    def __init__(self, store: ResultStore, source: Dataset | Stream, retry_failed: bool) -> None:
        self.store, self._source = store, source
        kept = (RowStatus.OK,) if retry_failed else (RowStatus.OK, RowStatus.FAILED)
        self._done = {row for row, status in enumerate(store.status()) if status in kept}
        self._rows = {identity: row for row, identity in enumerate(store.identities()) if identity}
        self._used = max(self._rows.values(), default=-1) + 1  # rows of a stream
        self.total, self.pending, self.before = self._counts()

    def _counts(self) -> tuple[int | None, int | None, int]:
        if isinstance(self._source, Stream):
            return None, None, 0
        mine = [row for _, row in self._own()]
        before = sum(row in self._done for row in mine)
        return len(mine), len(mine) - before, before

    def _own(self) -> Iterator[tuple[int, int]]:
        """(place in the data set, row) of the images of this process."""
        assert not isinstance(self._source, Stream)
        mine = hosts.own_chunks(self.store)
        for place, identity in enumerate(self._source.identities):
            row = self._rows[identity]
            if row // self.store.chunk_rows in mine:
                yield place, row

    def tasks(self) -> Iterator[Task]:
        """What is pending, in the order of the data set."""
        if isinstance(self._source, Stream):
            yield from self._streamed(self._source)
            return
        for place, row in self._own():
            if row not in self._done:
                yield Task(row, self._source.identities[place], partial(self._source.load, place))

    def _streamed(self, stream: Iterable[Example]) -> Iterator[Task]:
        seen: set[str] = set()
        for example in stream:
            check_identity(example.identity, seen)
            row = self._rows.get(example.identity)
            if row is None:
                row = self._rows[example.identity] = self._new_row(example.identity)
            if row in self._done:
                self.before += 1
            else:
                yield given(row, example)
        self.store.grow(self._used)

    def _new_row(self, identity: str) -> int:
        """The row of an image that a stream brings; rows are made a chunk at a time."""
        row, self._used = self._used, self._used + 1
        if row >= len(self.store):
            self.store.grow(row + self.store.chunk_rows)
        self.store.name({row: identity})
        return row
