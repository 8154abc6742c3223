"""The store of results: what is written where, in which order, and what a reader sees."""

import json

import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import given
from hypothesis import strategies as st

from jaxplain.files import OutputError
from jaxplain.runs.batch import check_config
from jaxplain.runs.storage import StoreError, TextColumn, decode_texts, encode_texts, exclusively
from jaxplain.runs.store import (
    FinishedRows,
    LeafSpec,
    RowStatus,
    create_store,
    leaves_of,
    open_store,
    report_on,
    rows_per_chunk,
)

LEAVES = {"map": LeafSpec((2, 3), "float32"), "area": LeafSpec((), "float32"), "sets": LeafSpec((4,), "bool")}
CONFIG = {"seed": 0, "explain": {"function": "f", "size": 4}}


def made(path, rows=7, chunk_rows=3):
    """A new store with some rows."""
    create_store(path, LEAVES, CONFIG, chunk_rows=chunk_rows)
    store = open_store(path)
    store.add([f"image {row}" for row in range(rows)])
    return store


def some(*rows, status=RowStatus.OK):
    at = np.array(rows)
    return FinishedRows(
        rows=at,
        status=np.full(len(at), status, np.int8),
        target=at.astype(np.int32),
        score=at.astype(np.float32),
        reasons={row: "" if status == RowStatus.OK else f"why {row}" for row in rows},
        leaves={
            "map": np.broadcast_to(at[:, None, None], (len(at), 2, 3)).astype(np.float32),
            "area": at.astype(np.float32),
            "sets": np.ones((len(at), 4), bool),
        },
    )


def test_rows_come_back_in_their_places(tmp_path):
    store = made(tmp_path / "r")
    store.write(some(5, 0, 2))
    store.write(some(6, status=RowStatus.FAILED))
    again = open_store(tmp_path / "r")
    assert again.status().tolist() == [1, 0, 1, 0, 0, 1, 2]
    assert again.read("map")[5].tolist() == [[5, 5, 5]] * 2
    assert np.isnan(again.read("map")[[1, 3, 4, 6]]).all()
    assert again.read("sets").any(1).tolist() == [True, False, True, False, False, True, False]
    assert again.reasons() == [""] * 6 + ["why 6"]
    assert again.config == CONFIG


def test_a_status_is_written_after_its_data(tmp_path, monkeypatch):
    """Should a write of data fail, the row stays pending."""
    store = made(tmp_path / "r")
    store.write(some(0))
    damaged = tmp_path / "r" / "map" / "c" / "0" / "0" / "0"
    damaged.write_bytes(b"")
    with pytest.raises(OutputError):
        store.write(some(1))
    assert open_store(tmp_path / "r").status().tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_what_a_killed_process_left_half_written_does_no_harm(tmp_path):
    """TensorStore's own lock files end up in the chunk: their last bytes stay when they are written again."""
    store = made(tmp_path / "r")
    left = tmp_path / "r" / "row_status" / "c" / "0.__lock"
    left.parent.mkdir()
    left.write_bytes(b"x" * 1000)
    store.write(some(0))
    assert open_store(tmp_path / "r").status()[0] == RowStatus.OK


def test_zarr_reads_all_of_it(tmp_path):
    made(tmp_path / "r").write(some(1, 4))
    group = zarr.open_group(tmp_path / "r", mode="r")
    assert set(group.array_keys()) == {
        "map", "area", "sets", "row_identity", "row_status", "row_reason", "row_target", "row_score",
    }  # fmt: skip
    assert list(group["row_identity"][:]) == [f"image {row}" for row in range(7)]
    assert group["map"][4].tolist() == [[4, 4, 4]] * 2
    assert group["row_status"][:].tolist() == [0, 1, 0, 0, 1, 0, 0]


def test_an_array_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match=r"no array 'maps', only row_status.*map"):
        made(tmp_path / "r").read("maps")
    with pytest.raises(FileNotFoundError, match="no results"):
        open_store(tmp_path / "nothing")


def test_a_store_of_the_first_format_is_refused_by_name(tmp_path):
    made(tmp_path / "r")
    metadata = tmp_path / "r" / "zarr.json"
    group = json.loads(metadata.read_text())
    group["attributes"]["jaxplain"] |= {"format": 1, "config": {"jaxplain": "0.1.0"}}
    metadata.write_text(json.dumps(group))
    with pytest.raises(
        StoreError, match=r"has format 1, written by jaxplain 0\.1\.0; .* format 2 only.*another folder"
    ):
        open_store(tmp_path / "r")


def test_something_else_is_not_a_store(tmp_path):
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(StoreError, match="does not contain results from jaxplain"):
        open_store(tmp_path)


def test_rows_that_lost_their_identity_are_given_again(tmp_path):
    store = made(tmp_path / "r")
    store.write(some(0, 1, 2, 3))
    (tmp_path / "r" / "row_identity" / "c" / "0").unlink()
    store = open_store(tmp_path / "r")
    assert store.identities()[:4] == ["", "", "", "image 3"]
    assert store.add(["x", "image 1", "image 0", "y"]) == 3
    assert store.identities() == [
        "x",
        "image 1",
        "image 0",
        "image 3",
        *(f"image {n}" for n in (4, 5, 6)),
        "y",
    ]
    assert store.status().tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


def test_a_store_that_was_half_grown_is_made_even(tmp_path):
    store = made(tmp_path / "r", rows=2)
    array = ts.open({"driver": "zarr3", "kvstore": f"file://{tmp_path}/r/row_status/"}).result()
    array.resize(exclusive_max=[5]).result()  # where a killed run left off
    store = open_store(tmp_path / "r")
    store.add(["new"])
    store.write(some(*range(3)))
    assert store.status().tolist() == [1, 1, 1, 0, 0]
    assert store.read("map").shape[0] == 5


def test_settings_are_compared_by_name(tmp_path):
    store = made(tmp_path / "r")
    check_config(store, CONFIG, LEAVES)
    other = CONFIG | {"explain": {"function": "f", "size": 5}}
    with pytest.raises(StoreError, match=r"explain.size 4, not 5"):
        check_config(store, other, LEAVES)
    with pytest.raises(StoreError, match=r"map float32\[2, 3\].*map float32\[9\]"):
        check_config(store, CONFIG, LEAVES | {"map": LeafSpec((9,), "float32")})


def first_chunks(path):
    """The file of each array's first chunk, by the array's name."""
    files = (file for file in path.rglob("c/*") if file.name == "0")
    return {
        file.parent.parent.name: next(f for f in (file, file / "0", file / "0/0") if f.is_file())
        for file in files
    }


@pytest.mark.parametrize("damage", ["emptied", "cut", "changed"])
def test_damaged_chunks_are_repaired(tmp_path, damage):
    path, names = tmp_path / "r", [f"image {row}" for row in range(7)]
    made(path, chunk_rows=4).write(some(*range(7)))
    chunks = first_chunks(path)
    assert set(chunks) == {"row_identity", "row_status", "row_target", "row_score", *LEAVES}
    if damage == "changed":
        del chunks["row_identity"]  # has no checksum; other letters are another identity
    for file in chunks.values():
        data = file.read_bytes()
        changed = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
        file.write_bytes({"emptied": b"", "cut": data[:-1], "changed": changed}[damage])
        store = open_store(path)
        lost = store.add([name for name in names if name not in store.identities()])
        assert lost + store.repair(store.chunks) == 4, file
        assert store.status().tolist() == [0] * 4 + [1] * 3
        store.write(some(*range(4)))
        assert open_store(path).repair(store.chunks) == 0
        assert open_store(path).identities() == names


def test_one_run_at_a_time(tmp_path):
    with exclusively(tmp_path / "r"):
        with pytest.raises(StoreError, match="another run"), exclusively(tmp_path / "r"):
            pass
        (tmp_path / "r" / "half.__lock").write_bytes(b"half written")
    with exclusively(tmp_path / "r"):
        assert not list((tmp_path / "r").iterdir())


@pytest.mark.parametrize("name", ["row_map", "a/b"])
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(ValueError, match="may not be named"):
        create_store(tmp_path / "r", {name: LeafSpec((), "float32")}, {}, chunk_rows=1)


def test_leaves_are_named_by_their_place():
    result = {"map": 1, "curves": (2, {"x": 3}), "none": None}
    assert leaves_of(result) == {"map": 1, "curves.0": 2, "curves.1.x": 3}
    assert leaves_of(7) == {"result": 7}


@given(
    rows=st.one_of(st.none(), st.integers(1, 10**6)),
    writers=st.integers(1, 64),
    side=st.integers(1, 4096),
)
def test_chunks_are_neither_huge_nor_too_few(rows, writers, side):
    found = rows_per_chunk({"map": LeafSpec((side, side), "float32")}, rows, writers)
    assert found >= 1
    assert found == 1 or found * side * side * 4 <= 8 * 2**20
    if rows is not None and writers > 1 and found > 1:
        assert -(-rows // found) >= writers  # every writer has something to do


def test_the_report_counts_and_averages(tmp_path):
    store = made(tmp_path / "r")
    store.write(some(1, 2, 3))
    store.write(some(4, status=RowStatus.FAILED))
    found = report_on(open_store(tmp_path / "r"))
    assert found.rows == {"pending": 3, "ok": 3, "failed": 1}
    assert found.reasons == {"why 4": 1}
    assert set(found.means) == {"row_score", "area"}
    mean = found.means["area"]
    assert (mean.mean, mean.rows) == (2.0, 3)
    assert mean.high - mean.mean == pytest.approx(1.96 / 3**0.5)


# ------------------------------------------------------------------------------------------------------ text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(TEXTS))
def test_texts_survive_their_bytes(texts):
    assert decode_texts(encode_texts(texts)) == texts


@given(st.lists(TEXTS, min_size=1), st.data())
def test_cut_bytes_are_noticed(texts, data):
    content = encode_texts(texts)
    assert decode_texts(content[: data.draw(st.integers(0, len(content) - 1))]) is None


@given(st.lists(st.dictionaries(st.integers(0, 19), TEXTS, max_size=6), max_size=5), st.integers(1, 8))
def test_a_column_is_a_list_that_is_written_to(writes, chunk_rows):
    column = TextColumn(ts.KvStore.open("memory://").result(), "names", chunk_rows)
    column.create()
    column.resize(20)
    expected = [""] * 20
    for some_texts in writes:
        column.write(some_texts)
        for row, text in some_texts.items():
            expected[row] = text
        assert column.read(20) == expected
