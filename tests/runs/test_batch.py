"""Runs over a data set in this process: rows, identities, failures, resuming, damage, full disks."""

import subprocess
import threading
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xarray
import zarr
from batch_job import assert_same, contents, noisy_igos, photos
from tiny import tiny_model, write_photo

import jaxplain as jx
from jaxplain.batch import (
    Example,
    Photos,
    RowStatus,
    StoreError,
    TooManyFailures,
    explain_dataset,
    identity_key,
    make_recipe,
    open_store,
    writing,
)
from jaxplain.batch import run as runs
from jaxplain.files import OutputError

OK, FAILED, PENDING = RowStatus.OK, RowStatus.FAILED, RowStatus.PENDING


@pytest.fixture
def folder(tmp_path):
    """Ten photos, one of which cannot be read."""
    return photos(10, tmp_path / "photos")


@pytest.fixture
def eager(monkeypatch):
    """Every step is committed by itself."""
    monkeypatch.setattr(writing, "_COMMIT_SECONDS", 0.0)


def colours(model, image, target, key):
    """A cheap explanation that depends on everything it is given."""
    return {"map": image.mean(-1) + jax.random.uniform(key, ()), "target": target}


def explain(folder, out="results.zarr", function=colours, **options):
    return explain_dataset(function, tiny_model(), folder, out=folder.parent / out, **options)


def stored(folder, out="results.zarr"):
    return contents(folder.parent / out)


# ------------------------------------------------------------------------------------------- what is written


def test_every_image_is_a_row(folder):
    outcome = explain(folder)
    assert (outcome.progress.done, outcome.progress.failed, outcome.progress.total) == (9, 1, 10)
    store = open_store(folder.parent / "results.zarr")
    assert store.identities() == sorted(path.name for path in folder.iterdir())
    assert store.status().tolist() == [FAILED if n == 6 else OK for n in range(10)]
    assert "photo006.png" in store.reasons()[6]
    assert [bool(reason) for reason in store.reasons()] == [n == 6 for n in range(10)]
    assert np.isnan(store.read("row_score")[6])
    assert store.read("map").shape == (10, 32, 32)


def test_a_row_is_what_one_image_gives_alone(folder):
    explain(folder, function=noisy_igos, per_device_batch=4, seed=5)
    model = tiny_model()
    seen = model.preprocess(jx.load_image(folder / "photo003.png"))
    target = jx.scores.top_class(model, seen)
    alone = noisy_igos(model, seen, target, identity_key(5, "photo003.png"))
    row = stored(folder)["photo003.png"]
    assert row["row_target"] == target
    np.testing.assert_allclose(row["mask"], alone["mask"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(row["row_score"], jx.class_score(model, target)(seen[None])[0], rtol=1e-5)


def test_zarr_and_xarray_open_it(folder):
    explain(folder)
    path = folder.parent / "results.zarr"
    group = zarr.open_group(path, mode="r")
    assert list(group["row_identity"][:]) == sorted(one.name for one in folder.iterdir())
    assert group.attrs["jaxplain"]["config"]["seed"] == 0
    table = xarray.open_zarr(path, consolidated=False)
    row = open_store(path).read("map")[2]
    np.testing.assert_array_equal(table["map"].sel(row=2), row)
    assert table["row_reason"].values[0] == ""
    assert table.sizes["row"] == 10


def test_batch_size_and_order_do_not_matter(folder):
    explain(folder, function=noisy_igos)
    backwards = sorted(folder.iterdir(), reverse=True)
    source = Photos(backwards, tiny_model(), root=folder)
    explain_dataset(noisy_igos, tiny_model(), source, out=folder.parent / "other.zarr", per_device_batch=7)
    assert_same(stored(folder, "other.zarr"), stored(folder), rtol=1e-4, atol=1e-5)


def test_the_same_run_gives_the_same_bits(folder):
    for name in ("one.zarr", "two.zarr"):
        explain(folder, name, function=noisy_igos, per_device_batch=3)
    assert_same(stored(folder, "one.zarr"), stored(folder, "two.zarr"))


def test_the_seed_matters(folder):
    for seed in (0, 1):
        explain(folder, f"{seed}.zarr", seed=seed)
    one, other = (stored(folder, f"{seed}.zarr")["photo000.png"]["map"] for seed in (0, 1))
    assert not np.allclose(one, other)


def test_a_run_compiles_once(folder):
    traced = []

    def counted(model, image, target, key):
        traced.append(1)
        return image.mean()

    explain(folder, function=counted, per_device_batch=4)  # 9 images: the last step is not full
    assert len(traced) <= 2  # once for the shapes of the results, once for the program


def test_images_of_arrays_and_models_of_ones_own(tmp_path):
    random = np.random.default_rng(0)
    weights = jnp.asarray(random.standard_normal((27, 5)), jnp.float32)
    model = jax.tree_util.Partial(lambda w, images: images.reshape(len(images), -1) @ w, weights)
    images = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    examples = [Example(f"x{n}", image, target=n) for n, image in enumerate(images)]
    explain_dataset(colours, model, examples, out=tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert store.read("row_target").tolist() == [0, 1, 2, 3]
    probabilities = jax.nn.softmax(model(images))
    np.testing.assert_allclose(store.read("row_score"), probabilities[np.arange(4), np.arange(4)], rtol=1e-5)


def test_the_model_may_compute_in_less(folder):
    explain(folder, function=noisy_igos)
    explain(folder, "low.zarr", function=noisy_igos, dtype="bfloat16")
    explain(folder, "remat.zarr", function=noisy_igos, remat=True)
    whole = stored(folder)
    assert_same(stored(folder, "remat.zarr"), whole, rtol=1e-4, atol=1e-5)
    for identity, row in stored(folder, "low.zarr").items():
        if row["row_status"] == OK:
            assert row["row_score"] != whole[identity]["row_score"]
            assert abs(row["row_score"] - whole[identity]["row_score"]) < 0.05


def test_bfloat16_is_kept_as_float32(tmp_path):
    half = jnp.bfloat16(1.5)
    explain_dataset(
        lambda score, image, target, key: half,
        jax.tree_util.Partial(lambda images: images.mean((1, 2, 3))),
        [Example("grey", np.ones((3, 3, 3), np.float32))],
        out=tmp_path / "out",
    )
    assert open_store(tmp_path / "out").read("result").tolist() == [1.5]


def test_a_score_is_explained_as_it_is(tmp_path):
    brightness = jax.tree_util.Partial(lambda images: images.mean((1, 2, 3)))
    image = np.full((3, 3, 3), 0.5, np.float32)
    explain_dataset(
        lambda score, image, target, key: score(image[None])[0],
        brightness, [Example("grey", image)], out=tmp_path / "out",
    )  # fmt: skip
    store = open_store(tmp_path / "out")
    assert store.read("result").tolist() == store.read("row_score").tolist() == [0.5]


@pytest.mark.parametrize("method", ["igos++", "gradient", "grad_cam", "sag"])
def test_recipes_run_on_a_folder(folder, method):
    explain(folder, function=make_recipe(method, size=4), per_device_batch=2)
    row = stored(folder)["photo001.png"]
    assert row["row_status"] == OK
    if method == "sag":
        assert row["sets"].shape[-1] == 16 or row["sets"].size
    else:
        assert 0 < row["deletion_area"] < row["insertion_area"] < 1


# -------------------------------------------------------------------------------------------------- failures


def test_what_is_no_number_fails_with_its_reason(tmp_path):
    model = jax.tree_util.Partial(lambda images: jnp.log(images.mean((1, 2, 3))))
    bright, dark = (np.full((3, 3, 3), value, np.float32) for value in (0.5, -1.0))
    wide, holed = np.ones((3, 4, 3), np.float32), bright.copy()
    holed[0, 0, 0] = np.nan
    names = {"bright": bright, "dark": dark, "wide": wide, "holed": holed}
    outcome = explain_dataset(
        lambda score, image, target, key: image.mean(),
        model, [Example(*one) for one in names.items()], out=tmp_path / "out",
    )  # fmt: skip
    assert (outcome.progress.done, outcome.progress.failed) == (1, 3)
    reasons = dict(zip(names, open_store(tmp_path / "out").reasons(), strict=True))
    assert reasons["bright"] == ""
    assert "NaN" in reasons["dark"]
    assert "(3, 4, 3)" in reasons["wide"]
    assert "NaN" in reasons["holed"]


def test_failures_are_tried_again(folder):
    explain(folder)
    write_photo(folder / "photo006.png", 6)
    outcome = explain(folder)
    assert (outcome.progress.done, outcome.progress.before) == (1, 9)
    row = stored(folder)["photo006.png"]
    assert (row["row_status"], row["reason"]) == (OK, "")


def test_failures_can_be_left_alone(folder):
    explain(folder)
    write_photo(folder / "photo006.png", 6)
    assert explain(folder, retry_failed=False).progress.done == 0


def test_too_many_failures_end_a_run(folder, eager):
    for path in sorted(folder.iterdir())[3:]:
        path.write_bytes(b"no photo")
    with pytest.raises(TooManyFailures, match="max_failures = 2"):
        explain(folder, max_failures=2)
    found = stored(folder)
    assert [row["row_status"] for row in found.values()].count(OK) == 3
    assert explain(folder, max_failures=7).progress.failed == 7


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"seed": -1}, ValueError, "seed"),
        ({"per_device_batch": 0}, ValueError, "per_device_batch"),
        ({"threads": 0}, ValueError, "threads"),
        ({"dtype": "float8"}, ValueError, "dtype"),
        ({"function": lambda model, image, target, key: None}, ValueError, "nothing to keep"),
        ({"function": lambda model, image, target, key: {"row_status": image}}, ValueError, "row_status"),
        ({"function": lambda model, image, target, key: {"key": key}}, ValueError, "may not hold key"),
        ({"out": "photos"}, StoreError, "photo000.png"),
        ({"mesh": jax.sharding.Mesh(np.array(jax.devices()).reshape(1, 1), ("a", "b"))}, ValueError, "data"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(folder, change, error, says):
    before = set(folder.parent.rglob("*"))
    with pytest.raises(error, match=says):
        explain(folder, **change)
    assert set(folder.parent.rglob("*")) - before <= {folder.parent / "results.zarr"}


def test_data_sets_that_cannot_be(tmp_path):
    model, image = tiny_model(), np.zeros((32, 32, 3), np.uint8)
    run = partial(explain_dataset, colours, model, out=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for dataset, says in [
        (tmp_path / "empty", "no photos"),
        (tmp_path / "missing", "no folder"),
        ([], "no image"),
        ([Example("a", image), Example("a", image)], "two images"),
        ([Example("", image)], "not empty"),
        ([Example("a", np.zeros((4, 4), np.uint8))], r"\[H, W, C\]"),
    ]:
        with pytest.raises(ValueError, match=says):
            run(dataset)
    with pytest.raises(TypeError, match="dataset must be"):
        run(7)
    with pytest.raises(TypeError, match="normalize"):
        explain_dataset(
            colours, lambda images: images.mean((1, 2)), [Example("a", image)], out=tmp_path / "o"
        )


# -------------------------------------------------------------------------------------------------- resuming


def test_a_run_that_was_stopped_goes_on(folder, eager):
    stop = threading.Event()
    first = explain(folder, stop=stop, tell=lambda progress: stop.set())
    assert first.stopped
    assert 0 < first.progress.done < 9
    second = explain(folder)
    assert not second.stopped
    assert second.progress.before == first.progress.done
    explain(folder, "whole.zarr")
    assert_same(stored(folder), stored(folder, "whole.zarr"))


def test_a_finished_run_computes_nothing(folder, monkeypatch):
    (folder / "photo006.png").unlink()
    explain(folder)
    monkeypatch.setattr(runs, "compile_program", None)
    assert explain(folder).progress.before == 9


def test_new_photos_join_the_rows(folder):
    explain(folder)
    write_photo(folder / "aaa.png", 99)  # sorts before all others
    assert explain(folder).progress.done == 1
    assert len(stored(folder)) == 11
    explain(folder, "whole.zarr")
    assert_same(stored(folder), stored(folder, "whole.zarr"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"dtype": "bfloat16"}, "dtype 'float32', not 'bfloat16'"),
        ({"settings": {"layer": 3}}, "layer None, not 3"),
        ({"function": make_recipe("gradient", size=5)}, "explain.size 4, not 5"),
        ({"function": make_recipe("edges", size=4)}, "explain.method 'gradient', not 'edges'"),
        ({"resume": False}, "holds results already"),
    ],
)
def test_a_run_made_otherwise_is_refused_by_name(folder, change, says):
    plain = {"function": make_recipe("gradient", size=4)}
    explain(folder, **plain)
    with pytest.raises(StoreError, match=says):
        explain(folder, **(plain | change))


def test_other_weights_are_refused(folder):
    explain(folder)
    state = tiny.weights() | {"classify.bias": np.ones(tiny.CLASSES, np.float32)}
    with pytest.raises(StoreError, match="weights"):
        explain_dataset(colours, tiny_model(state), folder, out=folder.parent / "results.zarr")


def test_two_runs_may_not_write_at_once(folder):
    def nested(progress):
        with pytest.raises(StoreError, match="another run"):
            explain(folder)
        seen.append(1)

    seen = []
    explain(folder, tell=nested)
    assert seen


def test_something_else_is_not_overwritten(folder):
    out = folder.parent / "results.zarr"
    out.mkdir()
    (out / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(StoreError, match="no results of jaxplain"):
        explain(folder)


def test_a_stream_of_unknown_length(folder, eager):
    model = tiny_model()

    def stream(count):
        for number in range(count):
            yield Example(f"image {number}", tiny.photo(number)[:32, :32])

    run = partial(explain_dataset, colours, model, out=folder.parent / "stream.zarr", per_device_batch=2)
    assert run(stream(5)).progress.done == 5
    again = run(stream(8))
    assert (again.progress.done, again.progress.before) == (3, 5)
    whole = [Example(f"image {number}", tiny.photo(number)[:32, :32]) for number in range(8)]
    explain_dataset(colours, model, whole, out=folder.parent / "list.zarr")
    assert_same(stored(folder, "stream.zarr"), stored(folder, "list.zarr"))


# ---------------------------------------------------------------------------------------------------- damage


def chunk_files(folder):
    store = folder.parent / "results.zarr"
    return sorted(path for path in store.rglob("*") if path.is_file() and "c" in path.parts)


def test_any_truncated_file_is_mended(folder):
    explain(folder)
    explain(folder, "whole.zarr")
    expected = stored(folder, "whole.zarr")
    files = chunk_files(folder)
    assert len(files) >= 6  # map, target, row_identity, row_reason, row_score, row_status, row_target
    for path in files:
        for keep in (0, path.stat().st_size - 1):
            data = path.read_bytes()
            path.write_bytes(data[:keep])
            outcome = explain(folder)
            assert_same(stored(folder), expected)
            assert outcome.mended > 0 or "row_reason" in path.parts, path


def test_changed_bytes_are_noticed(folder):
    """Checksums: the numbers of a damaged chunk are not taken for results."""
    explain(folder)
    before = stored(folder)
    path = folder.parent / "results.zarr" / "map" / "c" / "0" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(OutputError, match="cannot read"):
        open_store(folder.parent / "results.zarr").read("map")
    assert explain(folder).mended == 10
    assert_same(stored(folder), before)


def test_a_half_made_store_counts_as_none(folder):
    explain(folder)
    expected = stored(folder)
    (folder.parent / "results.zarr" / "zarr.json").unlink()
    assert explain(folder).progress.before == 0
    assert_same(stored(folder), expected)


@pytest.fixture
def small_disk(tmp_path):
    """A disk that is full after 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_stops_cleanly(tmp_path, small_disk, eager):
    folder = photos(60, tmp_path / "photos")
    run = partial(explain_dataset, noise, tiny_model(), folder)
    run(out=tmp_path / "whole.zarr")
    expected = contents(tmp_path / "whole.zarr")
    with pytest.raises(OutputError, match="disk is full"):
        run(out=small_disk / "results.zarr")
    found = contents(small_disk / "results.zarr")
    committed = {identity for identity, row in found.items() if row["row_status"] == OK}
    assert 0 < len(committed) < 54
    assert_same({one: found[one] for one in committed}, {one: expected[one] for one in committed})
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert run(out=small_disk / "results.zarr").progress.before == len(committed)
    assert_same(contents(small_disk / "results.zarr"), expected)


def noise(model, image, target, key):
    """Something that does not compress."""
    return jax.random.uniform(key, (64, 64))


def test_paths_of_the_results_may_be_strings(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    explain_dataset(colours, tiny_model(), "photos", out="here.zarr")
    assert len(contents(Path("here.zarr"))) == 10
