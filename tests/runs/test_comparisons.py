"""Comparisons: programs, rows that survive, summaries, tables."""

import csv
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, write_photo

from jaxplain.attributions import gradient
from jaxplain.compare import (
    METHODS,
    MapFolder,
    Row,
    RowFile,
    Settings,
    bootstrap,
    choose_methods,
    compare,
    difference,
    files,
    pictures,
    summarize,
    tables,
)
from jaxplain.compare.measures import MEASURES
from jaxplain.compare.program import at_size, compile_method, takes

QUICK = Settings(curve_steps=4)


def bright(score, image, baseline):
    """A method of a user's own, as simple as can be."""
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


def test_rows_are_what_the_functions_say(model, photos):
    """Against a direct call of the measures."""
    from jaxplain import class_score, insertion_deletion, load_image, metrics
    from jaxplain.perturb import blur_baseline

    [row] = compare(photos[:1], [model], {"gradient": METHODS["gradient"]}, sizes=(8,), settings=QUICK).rows
    image = model.preprocess(load_image(photos[0]))
    target = int(jnp.argmax(model(image[None])[0]))
    score, background = class_score(model, target), blur_baseline(image)
    saliency = np.asarray(gradient(score, image).saliency).reshape(8, 4, 8, 4).mean((1, 3))
    curves = insertion_deletion(score, image, background, jnp.asarray(saliency), steps=4)
    assert row.label == model.labels[target]
    assert row.evaluations == 1
    np.testing.assert_allclose(row.values["deletion"], curves.deletion_area, rtol=1e-5)
    np.testing.assert_allclose(row.values["insertion"], curves.insertion_area, rtol=1e-5)
    np.testing.assert_allclose(row.insertion, curves.insertion, rtol=1e-4)
    np.testing.assert_allclose(row.values["gini"], metrics.gini(jnp.asarray(saliency)), rtol=1e-4)


def test_what_fails_is_a_row_and_the_others_go_on(model, photos):
    methods = {"refuses": refuses, "flat": flat, "nan": not_finite, "bright": bright}
    found = compare(photos, [model], methods, sizes=(4,), settings=QUICK)
    reasons = {row.method: (row.status, row.reason) for row in found.rows}
    assert reasons["refuses"] == ("failed", "RuntimeError: no such layer")
    assert reasons["flat"] == ("failed", "the map is the same everywhere")
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
    [one] = summarize(found.rows, ["deletion"])
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


def test_sanity_checks_as_measures(model, photos):
    """A map that ignores the classifier and its target stays the same; the gradient does not."""
    settings = Settings(("parameter_randomization", "target_randomization"), curve_steps=2)
    methods = {"edges": METHODS["edges"], "gradient": METHODS["gradient"]}
    found = summarize(
        compare(photos, [model], methods, sizes=(4,), settings=settings).rows, settings.measures
    )
    for name in settings.measures:
        assert found[0].measures[name].mean == pytest.approx(1.0, abs=1e-5)
        assert found[1].measures[name].mean < 0.7


def test_a_map_that_is_gone_is_like_no_other(model, photos):
    """Flat for every class but the top one, as masks are where there is nothing to explain."""

    def only_top(score, image, baseline):
        top = jnp.argmax(score.classifier(image[None])[0]) == score.target
        return jnp.where(top, image.mean(-1), 0.0)

    settings = Settings(("target_randomization",), curve_steps=2)
    found = compare(photos, [model], {"m": only_top}, sizes=(4,), settings=settings)
    assert [row.values["target_randomization"] for row in found.rows] == [0.0] * 3


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_registry_makes_a_row(name, model, photos):
    if name in ("rise", "extremal_perturbation", "meaningful_perturbation"):
        pytest.skip("thousands of model calls; tested by themselves")
    [row] = compare(photos[:1], [model], choose_methods([name]), sizes=(4,), settings=QUICK).rows
    if name == "igos++ insertion only" and row.status == "failed":
        pytest.skip("on this photo no step from the full mask restores anything, so that the mask stays flat")
    assert row.status == "ok", row.reason


def test_bad_input(model, photos):
    with pytest.raises(ValueError, match="did you mean 'igos"):
        choose_methods(["igoss"])
    with pytest.raises(ValueError, match="at least one method"):
        choose_methods([])
    with pytest.raises(ValueError, match="no photo"):
        compare([], [model], {"bright": bright})
    with pytest.raises(ValueError, match="size 33 is finer than the input of tiny, 32 pixels"):
        compare(photos, [model], {"bright": bright}, sizes=(33,))
    with pytest.raises(ValueError, match="size must be at least 1"):
        compare(photos, [model], {"bright": bright}, sizes=(0,))
    with pytest.raises(ValueError, match="unknown measure 'deletio'"):
        Settings(("deletio",))
    with pytest.raises(ValueError, match="one map"):
        compile_method(lambda score, image, baseline: image, model, None)


def test_takes():
    assert takes(noisy, "size")
    assert not takes(bright, "size")
    assert takes(METHODS["igos++"], "size")
    assert not takes(METHODS["grad_cam"], "key")


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


# ----------------------------------------------------------------------------------------- going on


def counting(method):
    def counted(score, image, baseline):
        jax.debug.callback(lambda: counted.calls.append(1))
        return method(score, image, baseline)

    counted.calls = []
    return counted


def test_a_run_goes_on_where_it_stopped(model, photos, tmp_path):
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


def test_rows_of_another_run_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    RowFile(path, Settings(seed=1).record())
    with pytest.raises(ValueError, match="made with seed 1, not 2"):
        RowFile(path, Settings(seed=2).record())
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="no file of rows"):
        RowFile(path, Settings().record())
    assert path.read_text() == "something else\n"


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
    saliency = np.arange(16.0, dtype=np.float32).reshape(4, 4) * 1e-9
    MapFolder(tmp_path / "maps").add(key, saliency)
    np.testing.assert_allclose(MapFolder(tmp_path / "maps").get(key), saliency / saliency.max(), atol=1e-3)
    assert MapFolder(tmp_path / "maps").get(("2", *key[1:])) is None


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
    one, other = summarize(rows, ["deletion"])
    assert one.measures["deletion"].high > other.measures["deletion"].low


# -------------------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    photos = [write_photo(folder / f"{seed}.png", seed) for seed in range(3)]
    methods = {"bright|<b>": bright, "noisy": noisy, "refuses": refuses}
    return compare(photos, [model], methods, sizes=(4, 8), settings=QUICK, keep_maps=2)


def test_markdown(whole):
    text = tables.markdown(whole)
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
    rows = list(csv.DictReader(io.StringIO(tables.photos_csv(whole))))
    assert len(rows) == len(whole.rows) == 18
    assert [row["status"] for row in rows].count("failed") == 6
    assert float(rows[0]["deletion"]) == whole.rows[0].values["deletion"]
    means = list(csv.DictReader(io.StringIO(tables.summary_csv(whole))))
    assert len(means) == 2 * 3 * len(QUICK.measures)
    first = np.mean([row.values["deletion"] for row in whole.rows[:3]])
    assert float(means[0]["mean"]) == pytest.approx(first, rel=1e-5)
    assert float(means[0]["low"]) <= first <= float(means[0]["high"])


def test_json(whole):
    record = json.loads(tables.to_json(whole))
    assert len(record["rows"]) == 18
    assert len(record["summaries"]) == 6
    assert record["settings"]["curve_steps"] == 4
    assert record["rows"][0]["fraction"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert record["measures"]["deletion"]["better"] == "low"


def test_pictures(whole, model):
    sheet = pictures.contact_sheet(whole, model, 4)
    assert sheet.size == (2 * 16 + 4 * 136 - 8, 2 * 16 + 26 + 2 * 156)
    failed = np.asarray(sheet)[16 + 26 + 30, 16 + 3 * 136 + 30]
    assert failed.tolist() == [235] * 3
    assert pictures.contact_sheet(whole._replace(maps=MapFolder(None)), model, 4) is None
    drawn = pictures.curves(whole, "tiny", 8)
    assert drawn.size[0] == 2 * 560
    assert pictures.curves(whole._replace(rows=[]), "tiny", 8) is None


def test_files(whole, model, tmp_path):
    written = files.write(tmp_path / "table.md", whole, [model])
    assert {path.name for path in written} == {
        "table.md", "table.csv", "table.json", "table-photos.csv",
        "table-sheet-4.png", "table-sheet-8.png", "table-curves-4.png", "table-curves-8.png",
    }  # fmt: skip
    assert files.stem(Path("a.b/table.v2")).name == "table.v2"


def test_every_measure_says_what_it_is():
    for measure in MEASURES.values():
        assert measure.better in ("low", "high")
        assert measure.about
