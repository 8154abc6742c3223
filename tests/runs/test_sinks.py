"""Where results go: folders that appear whole, and never in the place of another photo's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import write_photo

from jaxplain.files import OutputError
from jaxplain.runs.photos import read_photo
from jaxplain.runs.records import origin, to_json
from jaxplain.runs.sinks import MapFolder, PhotoFolders, Row, RowFile, folder_names, write_folder

RECORD = "result.json"


def contents_of(photo, text="text"):
    return {"notes.txt": text.encode(), RECORD: to_json(origin(photo))}


def test_a_folder_that_is_not_a_result_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match=r"it contains files but no result\.json"):
        write_folder(tmp_path / "out", {RECORD: b"{}"}, RECORD)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diary.txt"]


def test_a_result_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    photo = read_photo(write_photo(tmp_path / "a.png"))
    write_folder(tmp_path / "out", contents_of(photo), RECORD)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write = Path.write_bytes

    def crash_at_the_record(path, content):
        if path.name == RECORD:
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", crash_at_the_record)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", contents_of(photo, "other"), RECORD)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "out"}


# ---------------------------------------------------------------------------------------------------------
# Which folder


def test_folders_are_named_after_files():
    paths = [Path(p) for p in ("x/cat.jpg", "x/cat.png", "y/cat.png", "dog.jpg", "dog", "x/DOG.gif", "a.b.c")]
    names = ["cat.jpg", "cat.png", "cat.png-2", "dog.jpg", "dog", "DOG.gif", "a.b"]
    assert list(folder_names(paths).values()) == names


@given(st.lists(st.sampled_from(["cat", "CAT", "cat.png", "cat.png-2", "cat-2"]).map(Path), max_size=4))
def test_no_two_photos_share_a_folder(stems):
    paths = [Path(f"{i}", f"{stem}{kind}") for i, stem in enumerate(stems) for kind in ("", ".png")]
    names = [name.casefold() for name in folder_names(paths).values()]
    assert len(set(names)) == len(paths)


def test_a_later_run_replaces_results_of_the_same_photo_only(tmp_path):
    def save(*paths):
        folders = PhotoFolders(tmp_path / "out", paths, RECORD)
        photos = [read_photo(path) for path in paths]
        for photo in photos:
            write_folder(folders.folder(photo), contents_of(photo), RECORD)
        return [folders.folder(photo).name for photo in photos]

    cat = write_photo(tmp_path / "x" / "cat.png", seed=0)
    other = write_photo(tmp_path / "y" / "cat.png", seed=1)
    planned = write_photo(tmp_path / "cat-2.png", seed=2)
    assert save(cat) == ["cat"]
    assert save(cat) == ["cat"]
    assert save(other, planned) == ["cat-3", "cat-2"]  # a name of this run is not taken away
    assert save(planned) == ["cat-2"]
    assert save(Path(shutil.copy(other, tmp_path / "cat.png"))) == ["cat-3"]
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"image_sha256": null}', "\xff"])
def test_a_damaged_record_is_not_replaced(tmp_path, content):
    photo = read_photo(write_photo(tmp_path / "cat.png"))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / RECORD).write_text(content, encoding="latin-1")
    assert PhotoFolders(tmp_path, [photo.path], RECORD).folder(photo) == tmp_path / "cat-2"


# ---------------------------------------------------------------------------------------------------------
# Rows and maps


def test_rows_of_another_run_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    RowFile(path, {"jaxplain": "0.2.0", "seed": 1})
    with pytest.raises(ValueError, match="made with seed 1, not 2"):
        RowFile(path, {"jaxplain": "0.2.0", "seed": 2})
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="is not a jaxplain results file"):
        RowFile(path, {"jaxplain": "0.2.0", "seed": 2})
    assert path.read_text() == "something else\n"


def test_rows_of_version_0_1_are_refused_by_name(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"jaxplain_comparison": {"jaxplain": "0.1.0", "measures": [], "seed": 0}}) + "\n"
    )
    with pytest.raises(
        ValueError, match=r"made with jaxplain '0\.1\.0', not '0\.2\.0'.*another name with --out"
    ):
        RowFile(path, {"jaxplain": "0.2.0", "measures": ["deletion"], "seed": 0})


def test_damaged_lines_are_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = RowFile(path, {})
    rows.add(Row("a", "1", "m", "w", "x", 4, "ok"))
    with open(path, "a") as file:
        file.write('{"photo": 3\n[]\n{"photo": "b"}\n')
    rows = RowFile(path, {})
    rows.add(Row("b", "2", "m", "w", "x", 4, "ok"))
    assert [row.photo for row in RowFile(path, {})] == ["a", "b"]


def test_maps_are_kept_whatever_their_scale(tmp_path):
    key = ("1", "m", "w", "x", 4)
    importance = np.arange(16.0, dtype=np.float32).reshape(4, 4) * 1e-9
    MapFolder(tmp_path / "maps").add(key, importance)
    kept = MapFolder(tmp_path / "maps").get(key)
    np.testing.assert_allclose(kept, importance / importance.max(), atol=1e-3)
    assert MapFolder(tmp_path / "maps").get(("2", *key[1:])) is None
