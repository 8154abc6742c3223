"""Batch runs in this process: rows, keys, recipes, failures, resuming, damage, full disks."""

import re
import subprocess
import threading
from functools import partial
from pathlib import Path

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
import zarr
from support import tiny
from support.batch_job import assert_same, colors, contents, noisy_gradient, photos, share_steps
from support.tiny import tiny_model, write_photo

import jaxplain as jx
from jaxplain.files import OutputError
from jaxplain.methods import METHODS, apply
from jaxplain.runs import batch as batches
from jaxplain.runs import writer
from jaxplain.runs.batch import Phase, TooManyFailures, explain_dataset
from jaxplain.runs.dataset import Example, Photos, WorkPlan
from jaxplain.runs.sharding import image_key, make_recipe, own_chunks
from jaxplain.runs.storage import StoreError
from jaxplain.runs.store import ResultStore, RowStatus, create_store, open_store
from jaxplain.runs.subject import make_subject, method_key, request

OK, FAILED, PENDING = RowStatus.OK, RowStatus.FAILED, RowStatus.PENDING


@pytest.fixture
def folder(tmp_path):
    """Ten photos, one of which is not readable."""
    return photos(10, tmp_path / "photos")


@pytest.fixture
def eager(monkeypatch):
    """Commit every step by itself."""
    monkeypatch.setattr(writer, "_COMMIT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(autouse=True)
def compile_once(monkeypatch):
    share_steps(monkeypatch)


@pytest.fixture
def explain(folder, model):
    """Explain the folder; `explain("name.zarr", function, ...)`."""

    def run(out="results.zarr", function=colors, **options):
        source = options.pop("dataset", folder)
        return explain_dataset(function, model, source, out=folder.parent / out, **options)

    return run


@pytest.fixture
def stored(folder):
    """Everything in the results by identity; `stored("name.zarr")`."""
    return lambda out="results.zarr": contents(folder.parent / out)


def prepared(path, model, seed=0, baseline=None):
    """A photo as every command prepares it."""
    asked = request(model.crop_and_resize(jx.load_image(path)))
    return make_subject(
        model, jnp.uint32(seed), jax.tree_util.tree_map(jnp.asarray, asked), baseline=baseline
    )


# ------------------------------------------------------------------------------------------- what is written


def test_every_image_is_a_row(explain, folder):
    outcome = explain()
    assert (outcome.progress.done, outcome.progress.failed, outcome.progress.total) == (9, 1, 10)
    store = open_store(folder.parent / "results.zarr")
    assert store.identities() == sorted(path.name for path in folder.iterdir())
    assert store.status().tolist() == [FAILED if n == 6 else OK for n in range(10)]
    assert "photo006.png" in store.reasons()[6]
    assert [bool(reason) for reason in store.reasons()] == [n == 6 for n in range(10)]
    assert np.isnan(store.read("row_score")[6])
    assert store.read("map").shape == (10, 32, 32)


def test_a_row_is_what_the_function_returns_for_the_image_alone(explain, folder, stored, model):
    explain(function=noisy_gradient, per_device_batch=4, seed=5)
    rgb = jx.load_image(folder / "photo003.png")
    seen, target = model.preprocess(rgb), jx.scores.top_class(model, model.preprocess(rgb))
    key = image_key(5, model.crop_and_resize(rgb))
    alone = jax.jit(noisy_gradient)(model, seen, target, key)
    row = stored()["photo003.png"]
    assert row["row_target"] == target
    np.testing.assert_allclose(row["map"], alone["map"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(row["row_score"], jx.class_score(model, target)(seen[None])[0], rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["smooth-grad", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gradient", "igos++"))]
)
def test_a_method_gives_the_same_map_here_as_in_every_command(explain, folder, stored, model, name):
    """Same photo, method, seed and (random) baseline: the same map, key and target, up to rounding."""
    explain(
        function=make_recipe(name, size=4, baseline="noise"), per_device_batch=2, seed=3,
        dataset=[folder / "photo001.png", folder / "photo003.png"],
    )  # fmt: skip

    def alone(model, subject):
        score = jx.class_score(model, subject.target)
        key = method_key(subject.key, name)
        return apply(METHODS[name], score, subject.image, subject.baseline, key=key, options={"size": 4})

    subject = prepared(folder / "photo003.png", model, seed=3, baseline="noise")
    expected = jax.jit(alone)(model, subject)
    row = stored()[str(folder / "photo003.png")]
    assert row["row_target"] == subject.target
    np.testing.assert_allclose(row["row_score"], subject.probability, rtol=1e-5)
    np.testing.assert_allclose(row["importance"], expected.importance, rtol=1e-3, atol=1e-4)
    assert (row["status"], row["evaluations"]) == (expected.status, expected.evaluations)


def test_a_renamed_photo_keeps_its_key(explain, folder, stored):
    (folder / "copy.png").write_bytes((folder / "photo002.png").read_bytes())
    explain()
    rows = stored()
    np.testing.assert_array_equal(rows["copy.png"]["map"], rows["photo002.png"]["map"])


def test_zarr_and_xarray_open_it(explain, folder):
    explain()
    path = folder.parent / "results.zarr"
    group = zarr.open_group(path, mode="r")
    assert list(group["row_identity"][:]) == sorted(image.name for image in folder.iterdir())
    assert group.attrs["jaxplain"]["format"] == 2
    assert group.attrs["jaxplain"]["config"]["seed"] == 0
    table = xarray.open_zarr(path, consolidated=False)
    np.testing.assert_array_equal(table["map"].sel(row=2), open_store(path).read("map")[2])
    assert table["row_reason"].values[0] == ""
    assert table.sizes["row"] == 10


def test_batch_size_and_order_do_not_matter(explain, folder, stored, model):
    explain(function=noisy_gradient, per_device_batch=4)
    backwards = Photos(sorted(folder.iterdir(), reverse=True), model, root=folder)
    explain("other.zarr", noisy_gradient, dataset=backwards, per_device_batch=7)
    assert_same(stored("other.zarr"), stored(), rtol=1e-4, atol=1e-5)


def test_the_same_run_gives_the_same_bits(explain, stored):
    for out in ("one.zarr", "two.zarr"):
        explain(out, noisy_gradient, per_device_batch=4)
    assert_same(stored("one.zarr"), stored("two.zarr"))


def test_the_seed_matters(explain, stored):
    for seed in (0, 1):
        explain(f"{seed}.zarr", seed=seed)
    first, second = (stored(f"{seed}.zarr")["photo000.png"]["map"] for seed in (0, 1))
    assert not np.allclose(first, second)


def test_a_run_traces_the_function_twice(explain):
    traced = []

    def counted(model, image, target, key):
        traced.append(1)
        return image.mean()

    explain(function=counted, per_device_batch=4)  # 9 images: the last step is not full
    assert len(traced) <= 2  # once for the shapes of the results, once for the program


def test_phases_come_in_order(explain):
    phases = []
    explain(on_phase=phases.append)
    assert phases == [Phase.CHECKING, Phase.COMPILING, Phase.EXPLAINING]
    explain(retry_failed=False, on_phase=phases.append)
    assert phases[3:] == [Phase.CHECKING]  # nothing is left to do


def test_arrays_and_models_of_ones_own(tmp_path):
    random = np.random.default_rng(0)
    weights = jnp.asarray(random.standard_normal((27, 5)), jnp.float32)
    model = jax.tree_util.Partial(lambda w, images: images.reshape(len(images), -1) @ w, weights)
    images = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    examples = [Example(f"x{n}", image, target=n) for n, image in enumerate(images)]
    explain_dataset(colors, model, examples, out=tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert store.read("row_target").tolist() == [0, 1, 2, 3]
    probabilities = jax.nn.softmax(model(images))
    np.testing.assert_allclose(store.read("row_score"), probabilities[np.arange(4), np.arange(4)], rtol=1e-5)


@pytest.mark.slow
def test_the_model_may_compute_in_less(explain, stored):
    explain(function=noisy_gradient, per_device_batch=4)
    explain("low.zarr", noisy_gradient, dtype="bfloat16", per_device_batch=4)
    explain("remat.zarr", noisy_gradient, remat=True, per_device_batch=4)
    whole = stored()
    assert_same(stored("remat.zarr"), whole, rtol=1e-4, atol=1e-5)
    for identity, row in stored("low.zarr").items():
        if row["row_status"] == OK:
            assert row["row_score"] != whole[identity]["row_score"]
            assert abs(row["row_score"] - whole[identity]["row_score"]) < 0.05


def brightness():
    return jax.tree_util.Partial(lambda images: images.mean((1, 2, 3)))


def test_a_score_is_explained_as_it_is(tmp_path):
    """And bfloat16, which Zarr lacks, is stored as float32."""
    explain_dataset(
        lambda score, image, target, key: {"score": score(image[None])[0], "half": jnp.bfloat16(1.5)},
        brightness(), [Example("grey", np.full((3, 3, 3), 0.5, np.float32))], out=tmp_path / "out",
    )  # fmt: skip
    store = open_store(tmp_path / "out")
    assert store.read("score").tolist() == store.read("row_score").tolist() == [0.5]
    assert store.read("half").tolist() == [1.5]


# -------------------------------------------------------------------------------------------------- recipes


def test_a_method_recipe_measures_its_map(explain, stored, folder, model):
    explain(function=make_recipe("grad-cam", size=8), dataset=[folder / "photo001.png"])
    [row] = stored().values()
    subject = prepared(folder / "photo001.png", model, baseline="blur")
    score = jx.class_score(model, subject.target)
    found = apply(METHODS["grad-cam"], score, subject.image, subject.baseline, key=subject.key)
    measured = found.saliency(8, 8)
    curves = jx.insertion_deletion(score, subject.image, subject.baseline, measured)
    np.testing.assert_allclose(row["importance"], found.importance, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(row["deletion_auc"], curves.deletion_auc, rtol=1e-4)
    np.testing.assert_allclose(row["insertion_auc"], curves.insertion_auc, rtol=1e-4)


@pytest.mark.slow
def test_sag_searches_every_photo(explain, stored, folder):
    explain(function=make_recipe("sag", size=3), dataset=[folder / "photo001.png"])
    [row] = stored().values()
    assert row["row_status"] == OK
    assert row["evaluations"] > 0


def test_maps_are_resized_in_full_precision(model):
    """The default precision of a TPU would round the map to bfloat16."""
    subject = jax.eval_shape(lambda: prepared_from(model, np.zeros((32, 32, 3), np.uint8)))
    program = jax.make_jaxpr(make_recipe("gradient", size=7))(jax.eval_shape(lambda: model), subject)
    products = [eqn for eqn in equations(program.jaxpr) if eqn.primitive.name == "dot_general"]
    resizing = [eqn for eqn in products if eqn.outvars[0].aval.shape in ((7, 32), (7, 7))]
    assert len(resizing) >= 2
    for eqn in resizing:
        assert eqn.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2


def prepared_from(model, pixels):
    asked = jax.tree_util.tree_map(jnp.asarray, request(pixels))
    return make_subject(model, jnp.uint32(0), asked, baseline="blur")


def equations(jaxpr):
    """All equations of a program, also those inside loops and calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from equations(inner)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("igoss", {}, "did you mean 'igos'"),
        ("igos", {"baseline": "blurr"}, "did you mean 'blur'"),
        ("igos", {"size": 0}, "size must be at least 1"),
        ("igos", {"sizes": 3}, "unknown option 'sizes': did you mean 'size'"),
        ("sag", {"beam": 3}, "unknown option 'beam': did you mean 'beam_width'"),
    ],
)
def test_recipes_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_recipe(name, **options)


# -------------------------------------------------------------------------------------------------- failures


def test_images_without_a_finite_score_fail_with_a_reason(tmp_path):
    model = jax.tree_util.Partial(lambda images: jnp.log(images.mean((1, 2, 3))))
    bright, dark = (np.full((3, 3, 3), value, np.float32) for value in (0.5, -1.0))
    wide, holed = np.ones((3, 4, 3), np.float32), bright.copy()
    holed[0, 0, 0] = np.nan
    names = {"bright": bright, "dark": dark, "wide": wide, "holed": holed}
    outcome = explain_dataset(
        lambda score, image, target, key: image.mean(),
        model, [Example(*item) for item in names.items()], out=tmp_path / "out",
    )  # fmt: skip
    assert (outcome.progress.done, outcome.progress.failed) == (1, 3)
    reasons = dict(zip(names, open_store(tmp_path / "out").reasons(), strict=True))
    assert reasons["bright"] == ""
    assert "NaN" in reasons["dark"]
    assert "(3, 4, 3)" in reasons["wide"]
    assert "NaN" in reasons["holed"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (7, "no class 7 of 3"),
        (3, "no class 3 of 3"),
        (-1, "no class -1: classes are numbered from 0"),
        ("cat", "a target must be a class index (an int), got 'cat'"),
        (1.0, "a target must be a class index (an int), got 1.0"),
        (True, "a target must be a class index (an int), got True"),
    ],
)
def test_a_target_that_is_no_class_fails_for_that_reason(target, reason, tmp_path):
    model = jax.tree_util.Partial(lambda images: images.mean((1, 2)))
    image = np.ones((3, 3, 3), np.float32)
    examples = [Example("good", image, np.int64(2)), Example("bad", image, target), Example("free", image)]
    outcome = explain_dataset(colors, model, examples, out=tmp_path / "out")
    assert (outcome.progress.done, outcome.progress.failed) == (2, 1)
    assert reason in open_store(tmp_path / "out").reasons()[1]
    assert open_store(tmp_path / "out").read("row_target").tolist()[0] == 2


IMAGES = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "source",
    [
        IMAGES,
        jnp.asarray(IMAGES),
        list(IMAGES),
        iter(IMAGES),
        [IMAGES[:2], IMAGES[2:]],
        [(IMAGES[:2], np.array([0, 1])), (IMAGES[2:], np.array([1, 2, 0]))],
        iter([(IMAGES[:2], np.array([0, 1])), (IMAGES[2:], np.array([1, 2, 0]))]),
        [{"image": image, "label": 1} for image in IMAGES],
    ],
    ids=["array", "jax", "list", "iterator", "batches", "pairs", "loader", "dicts"],
)
def test_arrays_and_loaders_are_data_sets(source, tmp_path):
    model = jax.tree_util.Partial(lambda images: images.mean((1, 2)))
    explain_dataset(lambda model, image, target, key: {"x": image}, model, source, out=tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert store.identities()[:5] == [f"00000{index}" for index in range(5)]
    np.testing.assert_array_equal(store.read("x")[:5], IMAGES)
    np.testing.assert_array_equal(store.read("row_target")[:5], IMAGES.mean((1, 2)).argmax(1))


@pytest.mark.parametrize(
    "source", [3, ["a", np.ones((3, 3, 3))], [np.ones(3)], [{"pixels": 1}], np.ones((3, 3))]
)
def test_what_is_no_data_set_is_refused(source, tmp_path):
    model = jax.tree_util.Partial(lambda images: images.mean((1, 2)))
    with pytest.raises(TypeError, match=r"dataset must be a folder, images|a data set must yield Example"):
        explain_dataset(colors, model, source, out=tmp_path / "out")


def test_identities_and_reasons_are_read_like_the_other_columns(tmp_path):
    model = jax.tree_util.Partial(lambda images: images.mean((1, 2)))
    explain_dataset(
        colors, model, [Example("a", IMAGES[0], 7), Example("b", IMAGES[1])], out=tmp_path / "out"
    )
    store = open_store(tmp_path / "out")
    assert store.read("row_reason").tolist() == ["no class 7 of 3", ""]
    assert store.read("row_identity", slice(1, 2)).tolist() == ["b"]


def test_a_single_logit_is_explained_by_its_sigmoid(tmp_path):
    model = jax.tree_util.Partial(lambda images: images.mean((1, 2))[:, :1])
    image = np.full((3, 3, 3), 2.0, np.float32)
    explain_dataset(
        lambda model, image, target, key: jx.class_score(model, target, "sigmoid")(image[None])[0],
        model, [Example("one", image)], out=tmp_path / "out",
    )  # fmt: skip
    assert open_store(tmp_path / "out").read("row_score")[0] == pytest.approx(1 / (1 + np.exp(-2)))


def test_a_model_that_returns_no_logits_is_refused_at_once(tmp_path):
    model = jax.tree_util.Partial(lambda images: (images.mean((1, 2)), {}))
    with pytest.raises(TypeError, match=r"must return logits .* got a tuple of 2"):
        explain_dataset(colors, model, [Example("a", np.ones((3, 3, 3), np.float32))], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failures_are_tried_again_unless_told_otherwise(explain, folder, stored):
    explain()
    write_photo(folder / "photo006.png", 6)
    assert explain(retry_failed=False).progress.done == 0
    outcome = explain()
    assert (outcome.progress.done, outcome.progress.before) == (1, 9)
    row = stored()["photo006.png"]
    assert (row["row_status"], row["reason"]) == (OK, "")


def test_too_many_failures_end_a_run(explain, folder, stored, eager):
    for path in sorted(folder.iterdir())[3:]:
        path.write_bytes(b"no photo")
    with pytest.raises(TooManyFailures, match="max_failures = 2"):
        explain(max_failures=2)
    assert [row["row_status"] for row in stored().values()].count(OK) == 3
    assert explain(max_failures=7).progress.failed == 7


def refused(value):
    return lambda model, image, target, key: value(image, key)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed"),
        ({"per_device_batch": 0}, ValueError, "per_device_batch"),
        ({"threads": 0}, ValueError, "threads"),
        ({"dtype": "float8"}, ValueError, "dtype"),
        ({"function": refused(lambda image, key: None)}, ValueError, "nothing to store"),
        ({"function": refused(lambda image, key: {"row_status": image})}, ValueError, "row_status"),
        ({"function": refused(lambda image, key: {"key": key})}, ValueError, "only numbers and booleans"),
        ({"out": "photos"}, StoreError, "photo000.png"),
        ({"mesh": jax.sharding.Mesh(np.array(jax.devices()).reshape(1, 1), ("a", "b"))}, ValueError, "data"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused_before_anything_is_written(explain, folder, change, error, message):
    before = set(folder.parent.rglob("*"))
    with pytest.raises(error, match=message):
        explain(**change)
    assert set(folder.parent.rglob("*")) - before <= {folder.parent / "results.zarr"}


def test_pixels_need_a_model_that_normalizes_them(tmp_path):
    with pytest.raises(TypeError, match="normalize"):
        explain_dataset(
            colors, brightness(), [Example("a", np.zeros((3, 3, 3), np.uint8))], out=tmp_path / "out"
        )


# -------------------------------------------------------------------------------------------------- resuming


def test_a_stopped_run_resumes(explain, stored, eager):
    stop = threading.Event()
    first = explain(stop=stop, on_progress=lambda progress: stop.set())
    assert first.stopped
    assert 0 < first.progress.done < 9
    second = explain()
    assert not second.stopped
    assert second.progress.before == first.progress.done
    explain("whole.zarr")
    assert_same(stored(), stored("whole.zarr"))


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing after it is written."""


def test_a_run_that_dies_at_any_write_resumes(explain, stored, eager, monkeypatch):
    """The quick variant of the killed processes: every third write of a run is its last one in turn."""
    explain("whole.zarr", per_device_batch=4)
    expected = stored("whole.zarr")
    left = 0

    def dying(write):
        def writes(*args):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return write(*args)

        return writes

    for name in ("_finish", "_plainly"):
        monkeypatch.setattr(ResultStore, name, dying(getattr(ResultStore, name)))
    for allowed in range(0, 100, 3):
        left = allowed
        try:
            explain(f"{allowed}.zarr", per_device_batch=4)
        except Killed:
            left = 1000
            explain(f"{allowed}.zarr", per_device_batch=4)
        else:
            break
        assert_same(stored(f"{allowed}.zarr"), expected)
    assert 20 < allowed < 99


def test_processes_share_the_rows(folder, model, monkeypatch):
    """The quick variant of runs of several processes: each row belongs to one of them."""
    source = Photos(sorted(folder.iterdir()), model, root=folder)
    create_store(folder.parent / "shared", {}, {}, chunk_rows=2)
    store, rows = open_store(folder.parent / "shared"), []
    store.add(source.identities)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        plan = WorkPlan(store, source, own_chunks(store), retry_failed=True)
        rows.append([task.row for task in plan.tasks()])
        assert plan.total == len(rows[-1])
    assert rows == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5]]


def test_a_finished_run_computes_nothing(explain, folder, monkeypatch):
    (folder / "photo006.png").unlink()
    explain()
    monkeypatch.setattr(batches, "compile_step", None)
    assert explain().progress.before == 9


def test_new_photos_are_added(explain, folder, stored):
    explain()
    write_photo(folder / "aaa.png", 99)  # sorts before all others
    assert explain().progress.done == 1
    assert len(stored()) == 11
    explain("whole.zarr")
    assert_same(stored(), stored("whole.zarr"))


def test_results_of_other_settings_are_refused_by_name(explain):
    recipe = make_recipe("gradient", size=4)
    explain(function=recipe)
    for change, message in [
        ({"seed": 1}, "seed 0, not 1"),
        ({"dtype": "bfloat16"}, "dtype 'float32', not 'bfloat16'"),
        ({"settings": {"layer": 3}}, "layer None, not 3"),
        ({"function": make_recipe("gradient", size=5)}, "explain.size 4, not 5"),
        ({"function": make_recipe("occlusion", size=4)}, "explain.method 'gradient', not 'occlusion'"),
        ({"function": colors}, "explain 'colors'|explain None, not 'colors'|explain.function"),
        ({"resume": False}, "already contains results"),
    ]:
        with pytest.raises(StoreError, match=message):
            explain(**({"function": recipe} | change))


def test_other_weights_are_refused(explain, folder):
    explain()
    state = tiny.weights() | {"classify.bias": np.ones(tiny.CLASSES, np.float32)}
    with pytest.raises(StoreError, match="weights"):
        explain_dataset(colors, tiny_model(state), folder, out=folder.parent / "results.zarr")


def test_two_runs_may_not_write_at_once(explain):
    def nested(progress):
        with pytest.raises(StoreError, match="another run"):
            explain()
        called.append(1)

    called = []
    explain(on_progress=nested)
    assert called


def test_a_stream_of_unknown_length(explain, stored, eager):
    examples = [Example(f"image {number}", tiny.photo(number)[:32, :32]) for number in range(8)]
    run = partial(explain, "stream.zarr", per_device_batch=2)
    assert run(dataset=iter(examples[:5])).progress.done == 5
    again = run(dataset=iter(examples))
    assert (again.progress.done, again.progress.before) == (3, 5)
    explain("list.zarr", dataset=examples, per_device_batch=2)
    assert_same(stored("stream.zarr"), stored("list.zarr"))


# ---------------------------------------------------------------------------------------------------- damage


def chunk_files(folder):
    store = folder.parent / "results.zarr"
    return sorted(path for path in store.rglob("*") if path.is_file() and "c" in path.parts)


@pytest.mark.slow
def test_any_truncated_file_is_repaired(explain, folder, stored):
    """The quick variant is among the tests of the store."""
    explain()
    explain("whole.zarr")
    expected = stored("whole.zarr")
    files = chunk_files(folder)
    assert len(files) >= 6  # map, target, row_identity, row_reason, row_score, row_status, row_target
    for path in files:
        for length in (0, path.stat().st_size - 1):
            data = path.read_bytes()
            path.write_bytes(data[:length])
            outcome = explain()
            assert_same(stored(), expected)
            assert outcome.repaired > 0 or "row_reason" in path.parts, path


def test_changed_bytes_are_noticed(explain, folder, stored):
    """Checksums: a damaged chunk is not taken for results."""
    explain()
    before = stored()
    path = folder.parent / "results.zarr" / "map" / "c" / "0" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(OutputError, match="cannot read"):
        open_store(folder.parent / "results.zarr").read("map")
    assert explain().repaired == 10
    assert_same(stored(), before)


def test_an_incomplete_store_counts_as_none(explain, folder, stored):
    explain()
    expected = stored()
    (folder.parent / "results.zarr" / "zarr.json").unlink()
    assert explain().progress.before == 0
    assert_same(stored(), expected)


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


def test_a_full_disk_stops_cleanly(tmp_path, small_disk, eager, model):
    folder = photos(60, tmp_path / "many")
    run = partial(explain_dataset, noise, model, folder)
    run(out=tmp_path / "whole.zarr")
    expected = contents(tmp_path / "whole.zarr")
    with pytest.raises(OutputError, match="disk is full"):
        run(out=small_disk / "results.zarr")
    found = contents(small_disk / "results.zarr")
    committed = {identity for identity, row in found.items() if row["row_status"] == OK}
    assert 0 < len(committed) < 54
    assert_same({name: found[name] for name in committed}, {name: expected[name] for name in committed})
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert run(out=small_disk / "results.zarr").progress.before == len(committed)
    assert_same(contents(small_disk / "results.zarr"), expected)


def noise(model, image, target, key):
    """Something that does not compress."""
    return jax.random.uniform(key, (64, 64))


def test_paths_of_the_results_may_be_strings(folder, monkeypatch, model):
    monkeypatch.chdir(folder.parent)
    explain_dataset(colors, model, "photos", out="here.zarr")
    assert len(contents(Path("here.zarr"))) == 10
