"""Data sets: what counts as one, reading ahead in threads, and which images cannot be used."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest
from support import tiny
from support.batch_job import photos

from jaxplain.runs import dataset as datasets
from jaxplain.runs.dataset import (
    Example,
    ImageFormat,
    Photos,
    ReadTask,
    Stream,
    as_dataset,
    load_groups,
    load_task,
    probe_format,
)
from jaxplain.runs.subject import TOP, content_words

PIXELS = ImageFormat((2, 2, 3), "uint8")


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_model()


def image(value=0):
    return np.full((2, 2, 3), value, np.uint8)


def tasks(count, load):
    return [ReadTask(row, f"image {row}", lambda row=row: load(row)) for row in range(count)]


def test_a_folder_is_a_data_set(tmp_path, model):
    photos(3, tmp_path)
    tiny.write_photo(tmp_path / "deep" / "more.png", 9)
    source = as_dataset(tmp_path, model)
    assert source.identities == ["deep/more.png", "photo000.png", "photo001.png", "photo002.png"]
    example = source.load(1)
    assert (example.image.shape, example.image.dtype, example.target) == ((32, 32, 3), np.uint8, None)
    assert as_dataset([str(tmp_path / "photo001.png")], model).load(0).image.shape == (32, 32, 3)


def test_photos_carry_their_target(tmp_path, model):
    path = tiny.write_photo(tmp_path / "a.png")
    assert Photos([path], model, target=7).load(0).target == 7


def test_names_that_are_not_unicode_are_escaped():
    assert datasets._relative(Path("caf\udce9.png"), None) == "caf\\udce9.png"


def test_data_sets_that_cannot_be(tmp_path, model):
    (tmp_path / "empty").mkdir()
    for source, message in [
        (tmp_path / "empty", "no photos"),
        (tmp_path / "missing", "does not exist"),
        ([], "no image"),
        ([Example("a", image()), Example("a", image())], "two images"),
        ([Example("", image())], "non-empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            as_dataset(source, model)
    with pytest.raises(TypeError, match="dataset must be"):
        as_dataset(7, model)
    with pytest.raises(TypeError, match="crop_and_resize"):
        as_dataset([tmp_path / "a.png"], lambda images: images)


def test_the_format_is_that_of_the_first_usable_image():
    bad = Example("bad", np.zeros((4, 4), np.uint8))
    good = Example("good", np.zeros((4, 5, 3)))
    for source in (as_dataset([bad, good], None), Stream(iter([bad, good]))):
        again, found = probe_format(source)
        assert found == ImageFormat((4, 5, 3), "float32")
        if isinstance(again, Stream):
            assert [example.identity for example in again] == ["bad", "good"]
    with pytest.raises(ValueError, match=r"\[H, W, C\]"):
        probe_format(as_dataset([bad], None))
    with pytest.raises(ValueError, match=r"no image is usable \(1 tried\)"):
        probe_format(Stream([bad]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((2, 3, 3), np.uint8),
            r"uint8 \(2, 3, 3\), but the first image in the run is uint8 \(2, 2, 3\)",
        ),
        (np.zeros((2, 2, 3)), "float32"),
        (np.zeros((2, 2, 3), int), "TypeError: an image must be uint8 pixels or floats"),
        (np.zeros((2, 2)), r"must be \[H, W, C\], got shape \(2, 2\)"),
    ],
)
def test_images_unlike_the_first_fail_with_a_reason(array, message):
    [task] = tasks(1, lambda row: Example("x", array))
    loaded = load_task(task, PIXELS)
    assert loaded.request is None
    assert re.search(message, loaded.reason)


def test_what_a_user_raises_becomes_the_reason():
    def load(row):
        raise RuntimeError("the archive is gone\nand more for programmers")

    assert load_task(tasks(1, load)[0], PIXELS).reason == "RuntimeError: the archive is gone"


def test_a_request_has_the_content_of_its_image():
    loaded = load_task(tasks(1, lambda row: Example("x", image(3), 5))[0], PIXELS)
    assert loaded.request.target == 5
    np.testing.assert_array_equal(loaded.request.words, content_words(image(3)))
    loaded = load_task(tasks(1, lambda row: Example("x", np.ones((2, 2, 3))))[0], None)
    assert (loaded.request.image.dtype, loaded.request.target) == (np.float32, TOP)


def test_groups_keep_the_order_and_never_grow():
    def load(row):
        if row % 3 == 2:
            raise OSError("no")
        return Example(f"{row}", image(row))

    groups = list(load_groups(tasks(10, load), PIXELS, size=2, threads=3))
    assert [item.row for group in groups for item in group.ready] == [0, 1, 3, 4, 6, 7, 9]
    assert [item.row for group in groups for item in group.failed] == [2, 5, 8]
    assert all(len(group.ready) <= 2 and len(group.failed) <= 2 for group in groups)


def test_sixteen_threads_read_ahead_but_not_far():
    """All threads work at once, each task is read once, and no more images wait than the threads hold."""
    lock, barrier, read = threading.Lock(), threading.Barrier(16), []

    def load(row):
        if row < 16:
            barrier.wait(timeout=30)
        with lock:
            read.append(row)
        return Example(f"{row}", image(row))

    seen = []
    for group in load_groups(tasks(200, load), PIXELS, size=4, threads=16):
        with lock:
            assert len(read) <= len(seen) + 4 + 16
        seen += [item.row for item in group.ready]
        assert all(item.request.image[0, 0, 0] == item.row for item in group.ready)
    assert seen == sorted(read) == list(range(200))


def test_readers_stop_with_the_run():
    read = []

    def load(row):
        read.append(row)
        return Example(f"{row}", image())

    groups = load_groups(tasks(1000, load), PIXELS, size=2, threads=2)
    next(groups)
    groups.close()
    assert len(read) <= 6
