"""Comparisons: the run, rows that resume, summaries, tables."""

import csv
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import tiny_model, write_photo

from jaxplain.methods import METHODS
from jaxplain.runs import photos as photos_module
from jaxplain.runs.compare import (
    CompareSettings,
    at_size,
    choose_methods,
    compare,
    finished_part,
    photo_pixels,
)
from jaxplain.runs.measures import MEASURES
from jaxplain.runs.sinks import MapFolder, Row, RowFile
from jaxplain.runs.summary import (
    bootstrap,
    comparison_json,
    difference,
    format_mean,
    markdown,
    mean_curves,
    photos_csv,
    summarize_rows,
    summary_csv,
)

QUICK = CompareSettings(curve_steps=4)


def bright(score, image, baseline):
    """A user's own method, as simple as can be."""
    return image.mean(-1)


def noisy(score, image, baseline, *, key, size):
    return jax.random.uniform(key, (size, size))


def flat(score, image, baseline):
    return jnp.ones(image.shape[:2])


def not_finite(score, image, baseline):
    return image.mean(-1) * jnp.nan


def refuses(score, image, baseline):
    raise RuntimeError("no such layer\nand more")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def photos(tmp_path):
    return [write_photo(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc")]


def by_key(found):
    return {(row.method, row.size, row.photo): row for row in found.rows}


# --------------------------------------------------------------------------------------------- the run


def test_a_function_of_ones_own_enters_by_being_passed(model, photos):
    found = compare(photos, [model], {"bright": bright, "noisy": noisy}, sizes=(4, 8), settings=QUICK)
    assert [(row.method, row.size) for row in found.rows[::3]] == [
        ("bright", 4), ("noisy", 4), ("bright", 8), ("noisy", 8),
    ]  # fmt: skip
    assert all(row.status == "ok" and row.photo in ("a.png", "b.png", "c.png") for row in found.rows)
    assert set(found.rows[0].values) == set(QUICK.measures)


def test_rows_are_what_the_functions_return(model, photos):
    """Against a direct call of the measures."""
    from jaxplain import class_score, insertion_deletion, load_image, metrics
    from jaxplain.perturb import blur_baseline

    [row] = compare(photos[:1], [model], ["gradient"], sizes=(8,), settings=QUICK).rows
    image = model.preprocess(load_image(photos[0]))
    target = int(jnp.argmax(model(image[None])[0]))
    score, background = class_score(model, target), blur_baseline(image)
    fine = METHODS["gradient"].function(score, image).importance
    importance = jnp.asarray(np.asarray(fine).reshape(8, 4, 8, 4).mean((1, 3)))
    curves = insertion_deletion(score, image, background, importance, n_steps=4)
    assert row.label == model.labels[target]
    assert row.evaluations == 1
    np.testing.assert_allclose(row.values["deletion"], curves.deletion_auc, rtol=1e-4)
    np.testing.assert_allclose(row.values["insertion"], curves.insertion_auc, rtol=1e-4)
    np.testing.assert_allclose(row.insertion, curves.insertion, rtol=1e-4)
    np.testing.assert_allclose(row.values["gini"], metrics.gini(importance), rtol=1e-4)


def test_each_photo_is_read_and_decoded_once_for_all_methods(model, photos, monkeypatch):
    calls = {"read_image_file": [], "decode_image": []}
    for name, called in calls.items():
        true = getattr(photos_module, name)

        def wrapped(*args, true=true, called=called):
            called.append(args)
            return true(*args)

        monkeypatch.setattr(photos_module, name, wrapped)
    crops, crop = [], type(model).crop_and_resize
    monkeypatch.setattr(type(model), "crop_and_resize", lambda self, rgb: crops.append(1) or crop(self, rgb))
    found = compare(photos, [model], {"bright": bright, "noisy": noisy}, sizes=(4, 8), settings=QUICK)
    assert len(found.rows) == 12
    assert {name: len(called) for name, called in calls.items()} == {"read_image_file": 3, "decode_image": 3}
    assert len(crops) == 3


def test_the_map_is_that_of_the_engine(model, photos):
    """`compare` and `explain` give the same map for the same photo, method and seed."""
    from jaxplain.runs.photos import read_photo
    from jaxplain.runs.step import Engine, explain_step

    settings = CompareSettings(seed=3, baseline="noise", curve_steps=4)
    found = compare(photos[:1], [model], {"noisy": noisy}, sizes=(4,), settings=settings)
    engine = Engine(model, seed=3, baseline="noise")
    view = engine.view(read_photo(photos[0]).rgb)
    importance = engine.run(explain_step("noisy", noisy, {"size": 4}), view).value.importance
    kept = found.maps.get(found.rows[0].key)
    np.testing.assert_allclose(kept, importance / importance.max(), atol=1e-3)


def test_an_unreadable_photo_is_named_and_the_others_are_not_affected(model, photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a photo")
    found = compare(
        [tmp_path / "broken.png", *photos], [model], {"bright": bright}, sizes=(4,), settings=QUICK
    )
    assert [row.photo for row in found.rows] == ["a.png", "b.png", "c.png"]
    assert len(found.unreadable) == 1
    assert "broken.png: this is not an image" in found.unreadable[0]
    with pytest.raises(ValueError, match=r"no photo can be read \(1 tried\): .*broken\.png"):
        compare([tmp_path / "broken.png"], [model], {"bright": bright})


def test_what_fails_is_a_row_and_the_others_are_not_affected(model, photos):
    methods = {"refuses": refuses, "flat": flat, "nan": not_finite, "bright": bright}
    found = compare(photos, [model], methods, sizes=(4,), settings=QUICK)
    reasons = {row.method: (row.status, row.reason) for row in found.rows}
    assert reasons["refuses"] == ("failed", "RuntimeError: no such layer")
    assert reasons["flat"] == ("failed", "the map is constant")
    assert reasons["nan"][0] == "failed"
    assert "NaN" in reasons["nan"][1]
    assert reasons["bright"] == ("ok", "")
    assert len(found.rows) == 12


def test_a_failure_on_one_photo_stays_with_it(model, photos):
    """NaN on the darkest photo only."""

    def sometimes(score, image, baseline):
        return jnp.where(image.mean() < levels[1], jnp.nan, image.mean(-1))

    from jaxplain import load_image

    levels = sorted(float(model.preprocess(load_image(photo)).mean()) for photo in photos)
    found = compare(photos, [model], {"sometimes": sometimes}, sizes=(4,), settings=QUICK)
    assert sorted(row.status for row in found.rows) == ["failed", "ok", "ok"]
    [one] = summarize_rows(found.rows, ["deletion"])
    assert (one.images, one.failed, one.measures["deletion"].images) == (2, 1, 2)


def test_a_method_without_a_size_runs_once_a_photo(model, photos):
    def counted(score, image, baseline):
        jax.debug.callback(lambda: calls.append(1))
        return image.mean(-1)

    calls = []
    found = compare(photos, [model], {"counted": counted}, sizes=(2, 4, 8), settings=QUICK)
    jax.effects_barrier()
    assert len(found.rows) == 9
    assert len(calls) == 3


def test_keys_come_from_photo_and_name(model, photos):
    """Neither order nor company changes a random method's rows."""
    one = by_key(compare(photos, [model], {"noisy": noisy, "b": bright}, sizes=(4,), settings=QUICK))
    other = by_key(
        compare(photos[::-1], [model], {"b": bright, "noisy": noisy}, sizes=(8, 4), settings=QUICK)
    )
    for key, row in one.items():
        assert row.values == other[key].values
    assert len({row.values["insertion"] for key, row in one.items() if key[0] == "noisy"}) == 3


def test_copies_of_a_photo_count_once(model, photos, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    found = compare([*photos, copy], [model], {"bright": bright}, sizes=(4,), settings=QUICK)
    assert len(found.rows) == 3


@pytest.mark.slow
def test_sanity_checks_as_measures(model, photos):
    """A map that ignores the classifier and its target stays the same; the gradient does not."""
    settings = CompareSettings(("parameter_randomization", "target_randomization"), curve_steps=2)
    rows = compare(photos, [model], ["edges", "gradient"], sizes=(4,), settings=settings).rows
    found = summarize_rows(rows, settings.measures)
    for name in settings.measures:
        assert found[0].measures[name].mean == pytest.approx(1.0, abs=1e-5)
        assert found[1].measures[name].mean < 0.7


def test_a_map_that_is_gone_is_like_no_other(model, photos):
    """Flat for every class but the top one, as masks are where there is nothing to explain."""

    def only_top(score, image, baseline):
        top = jnp.argmax(score.classifier(image[None])[0]) == score.target
        return jnp.where(top, image.mean(-1), 0.0)

    settings = CompareSettings(("target_randomization",), curve_steps=2)
    found = compare(photos, [model], {"m": only_top}, sizes=(4,), settings=settings)
    assert [row.values["target_randomization"] for row in found.rows] == [0.0] * 3


SLOW = (
    "rise",
    "var-grad",
    "contrastive-excitation",
    "extremal-perturbation",
    "meaningful-perturbation",
    "igos",
    "igos+",
    "igos++",
)


def every_method():
    """The registry; methods of many model calls or long compilation are marked slow."""
    for name in METHODS:
        slow = name in SLOW or name.startswith("igos++-")
        yield pytest.param(name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("name", list(every_method()))
def test_every_method_of_the_registry_makes_a_row(name, model, photos):
    [row] = compare(photos[:1], [model], [name], sizes=(4,), settings=QUICK).rows
    if name == "igos++-insertion-only" and row.reason == "the map is constant":
        return  # on this photo no step from the full mask restores anything, so the mask stays as it was
    assert row.status == "ok", row.reason


def test_bad_input(model, photos):
    with pytest.raises(ValueError, match="did you mean 'igos"):
        choose_methods(["igoss"])
    with pytest.raises(ValueError, match="at least one method"):
        choose_methods([])
    with pytest.raises(TypeError, match="a method must be a function"):
        choose_methods({"mine": 3})
    with pytest.raises(ValueError, match="no photo"):
        compare([], [model], {"bright": bright})
    with pytest.raises(ValueError, match="size 33 x 33 is finer than the input of tiny, 32 x 32 pixels"):
        compare(photos, [model], {"bright": bright}, sizes=(33,))
    with pytest.raises(ValueError, match="size must be at least 1"):
        compare(photos, [model], {"bright": bright}, sizes=(0,))
    with pytest.raises(ValueError, match="at least one size and one classifier"):
        compare(photos, [], {"bright": bright})
    with pytest.raises(ValueError, match="unknown measure 'deletio'"):
        CompareSettings(("deletio",))


@given(side=st.integers(1, 12), size=st.integers(1, 12), seed=st.integers(0, 99))
def test_at_size_keeps_means_and_corners(side, size, seed):
    saliency = np.random.default_rng(seed).uniform(size=(side, side)).astype(np.float32)
    found = at_size(saliency, size)
    assert found.shape == (size, size)
    if size <= side:  # averages over cells: nothing is lost
        np.testing.assert_allclose(found.mean(), saliency.mean(), rtol=1e-5)
    if side % size == 0:
        cell = side // size
        np.testing.assert_allclose(found, saliency.reshape(size, cell, size, cell).mean((1, 3)), rtol=1e-5)
    if size > side:
        np.testing.assert_allclose(found[0, 0], saliency[0, 0], rtol=1e-5)
        np.testing.assert_allclose(found[-1, -1], saliency[-1, -1], rtol=1e-5)


# --------------------------------------------------------------------------------------------- resuming


def counting(method):
    def counted(score, image, baseline):
        jax.debug.callback(lambda: counted.calls.append(1))
        return method(score, image, baseline)

    counted.calls = []
    return counted


def test_a_run_resumes_where_it_stopped(model, photos, tmp_path):
    method, path = counting(bright), tmp_path / "rows.jsonl"

    def run(some):
        rows = RowFile(path, QUICK.record())
        return compare(some, [model], {"m": method}, sizes=(4,), settings=QUICK, rows=rows, keep_maps=0)

    run(photos[:2])
    jax.effects_barrier()
    assert len(method.calls) == 2
    found = run(photos)
    jax.effects_barrier()
    assert len(method.calls) == 3
    assert len(found.rows) == 3
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])  # killed in the middle of a line
    again = run(photos)
    jax.effects_barrier()
    assert len(method.calls) == 4
    assert [row.values for row in again.rows] == [row.values for row in found.rows]


def test_failed_rows_are_tried_again(model, photos, tmp_path):
    path = tmp_path / "rows.jsonl"
    for method, status in ((refuses, "failed"), (bright, "ok")):
        rows = RowFile(path, QUICK.record())
        found = compare(photos, [model], {"m": method}, sizes=(4,), settings=QUICK, rows=rows)
        assert {row.status for row in found.rows} == {status}


def test_what_is_finished_can_be_read_after_an_interruption(model, photos):
    rows, maps = RowFile(None, QUICK.record()), MapFolder(None)
    options = {"sizes": (4,), "settings": QUICK, "rows": rows, "maps": maps}
    compare(photos[:2], [model], {"bright": bright}, **options)
    found = finished_part(photos, [model], choose_methods({"bright": bright}), **options)
    assert [row.photo for row in found.rows] == ["a.png", "b.png"]
    assert len(found.photos) == 3


# ----------------------------------------------------------------------------------------- summaries


def test_bootstrap_against_its_definition():
    values = np.random.default_rng(0).normal(size=30)
    found = bootstrap(values)
    means = [values[np.random.default_rng(seed).integers(0, 30, 30)].mean() for seed in range(4000)]
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.percentile(means, 2.5), abs=0.04)
    assert found.high == pytest.approx(np.percentile(means, 97.5), abs=0.04)


def test_bootstrap_covers_the_truth():
    """95% intervals hold the true mean about as often as they say."""
    rng = np.random.default_rng(1)
    found = [bootstrap(rng.exponential(size=50)) for _ in range(300)]
    assert 0.88 < np.mean([one.low <= 1.0 <= one.high for one in found]) <= 0.99


def test_bootstrap_without_values():
    assert bootstrap([]).images == 0
    assert np.isnan(bootstrap([np.nan]).mean)
    assert bootstrap([0.25, np.nan]).images == 1


def rows_with(**values):
    """Rows of methods whose deletion is given, photo by photo."""
    return [
        Row(f"{at}.png", str(at), "m", "w", name, 4, "ok", values={"deletion": value}, seconds=1.0)
        for name, several in values.items()
        for at, value in enumerate(several)
    ]


def test_differences_are_paired():
    """Photos differ by far more than methods; the pairs tell the methods apart all the same."""
    base = np.random.default_rng(0).uniform(size=40)
    rows = rows_with(one=base, other=base + 0.01)
    found = difference(rows, "deletion", "one", "other", 4)
    assert found.mean == pytest.approx(-0.01)
    assert found.high < 0
    assert found.images == 40
    one, other = summarize_rows(rows, ["deletion"])
    assert one.measures["deletion"].high > other.measures["deletion"].low


# -------------------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    photos = [write_photo(folder / f"{seed}.png", seed) for seed in range(3)]
    methods = {"bright|<b>": bright, "noisy": noisy, "refuses": refuses}
    return compare(photos, [model], methods, sizes=(4, 8), settings=QUICK, keep_maps=2)


def test_markdown(whole):
    text = markdown(whole)
    lines = text.splitlines()
    assert "## tiny, 4 x 4" in lines
    assert "## tiny, 8 x 8" in lines
    assert "## Failed" in lines
    assert "3 photos" in text
    assert "Baseline blur, seed 0" in text
    table = [line for line in lines if line.startswith("| ") and "[" in line]
    assert len(table) == 4
    assert table[0].startswith("| bright\\|&lt;b> | ")
    assert {line.replace("\\|", "").count("|") for line in table} == {len(QUICK.measures) + 6}
    assert sum("**" in line for line in table[:2]) >= 1
    assert "| refuses | 4 | 0.png | RuntimeError: no such layer |" in lines


def test_csv(whole):
    rows = list(csv.DictReader(io.StringIO(photos_csv(whole))))
    assert len(rows) == len(whole.rows) == 18
    assert [row["status"] for row in rows].count("failed") == 6
    assert float(rows[0]["deletion"]) == whole.rows[0].values["deletion"]
    means = list(csv.DictReader(io.StringIO(summary_csv(whole))))
    assert len(means) == 2 * 3 * len(QUICK.measures)
    first = np.mean([row.values["deletion"] for row in whole.rows[:3]])
    assert float(means[0]["mean"]) == pytest.approx(first, rel=1e-5)
    assert float(means[0]["low"]) <= first <= float(means[0]["high"])


def test_json(whole):
    record = json.loads(comparison_json(whole))
    assert len(record["rows"]) == 18
    assert len(record["summaries"]) == 6
    assert record["settings"]["curve_steps"] == 4
    assert record["rows"][0]["fraction"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert record["measures"]["deletion"]["better"] == "low"


def test_mean_curves_and_pixels_for_pictures(whole, model):
    means = mean_curves(row for row in whole.rows if row.size == 8)
    assert set(means) == {"bright|<b>", "noisy"}
    rows = [row for row in whole.rows if row.size == 8 and row.method == "noisy"]
    np.testing.assert_allclose(means["noisy"].deletion, np.mean([row.deletion for row in rows], axis=0))
    pixels = photo_pixels(whole, model, rows[0].sha256)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    assert mean_curves([]) == {}


def test_numbers_in_tables():
    assert [format_mean("deletion", value) for value in (0.0932, 10.5, 1.0, -0.25, np.inf)] == [
        ".093", "10.500", "1.000", "-.250", "n/a",
    ]  # fmt: skip
    assert format_mean("average_drop", 12.345) == "12.3"


def test_every_measure_says_what_it_is():
    for measure in MEASURES.values():
        assert measure.better in ("low", "high")
        assert measure.about


def test_a_bare_model_is_refused_with_what_it_lacks(tmp_path):
    model = jax.tree_util.Partial(lambda images: images.mean((1, 2)))
    with pytest.raises(TypeError, match=r"Partial has no spec, labels.*explain_dataset"):
        compare([write_photo(tmp_path / "a.png")], [model], {"gradient": METHODS["gradient"]})
