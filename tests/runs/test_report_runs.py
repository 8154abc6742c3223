"""What a report computes: the figures of the other commands, on one subject per photo."""

import numpy as np
import pytest
from support import report_runs, tiny

from jaxplain.methods import METHODS, MethodSpec
from jaxplain.runs import report_runs as report
from jaxplain.runs.compare import CompareSettings, compare
from jaxplain.runs.heatmap_runs import HeatmapSettings, compile_heatmaps, explain_photo
from jaxplain.runs.report_runs import ReportSettings, check_report


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch):
    report_runs.make_quick(monkeypatch)


@pytest.fixture
def explained(tmp_path):
    return lambda **changes: report_runs.explained(tmp_path / "a.png", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("gradent",)}, "did you mean 'gradient'"),
        ({"methods": ()}, "at least one method"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"curve_steps": 0}, "curve_steps must be at least 1"),
        ({"baseline": "blak"}, "did you mean 'black'"),
        ({"seed": -1}, "seed must be in 0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ReportSettings(**changes)


def test_settings_that_do_not_fit_the_classifier_are_refused():
    with pytest.raises(ValueError, match="finer than the input of tiny"):
        check_report(ReportSettings(size=33), tiny.tiny_model())
    with pytest.raises(ValueError, match="1000"):
        check_report(ReportSettings(target=1000), tiny.tiny_model())


@pytest.mark.slow
def test_the_figures_are_those_of_the_other_commands(explained):
    program, photo, found = explained(methods=("gradient", "edges", "igos++"))
    measures = ("deletion", "insertion", "parameter_randomization")
    names = [one.method for one in found.methods]
    rows = compare(
        [photo.path], [tiny.tiny_model()], names, sizes=(4,), settings=CompareSettings(measures)
    ).rows
    for one, row in zip(found.methods, rows, strict=True):
        assert one.method == row.method
        figures = [one.curves.deletion_auc, one.curves.insertion_auc, one.check.similarity]
        assert [float(value) for value in figures] == pytest.approx(
            [row.values[name] for name in measures], abs=1e-6
        )
    assert found.control.check.similarity == pytest.approx(1)
    assert found.control is found.methods[1]  # not computed twice
    alone = explain_photo(
        compile_heatmaps(HeatmapSettings("igos++", {"size": 4}), tiny.tiny_model()), photo.rgb
    )
    np.testing.assert_allclose(found.methods[2].importance, alone.explanation.importance, atol=1e-6)
    assert program.specs.keys() == {"gradient", "edges", "igos++"}


@pytest.mark.slow
def test_maps_curves_and_graph_have_the_same_baseline(explained):
    """With noise the baseline is drawn from the photo's key, so two keys would give two baselines."""
    program, _, found = explained(methods=("gradient",), sanity=False, sag=True, baseline="noise")
    engine = program.engine
    score_of_baseline = float(found.methods[0].curves.deletion[-1])
    assert found.graph.graph.baseline_score == pytest.approx(score_of_baseline, rel=1e-4)
    assert found.graph.graph.image_score == pytest.approx(found.view.probability, rel=1e-5)
    hidden = np.asarray(engine.classifier.denormalize(found.view.subject.baseline))
    np.testing.assert_allclose(found.graph.hidden, np.clip(hidden, 0, 255), atol=0.51)
    assert found.graph.view is found.view
    assert program.graphs.engine is engine


def test_the_target_is_the_top_class_or_the_one_that_is_named(explained):
    _, _, found = explained(sanity=False)
    assert found.view.target == found.probabilities.argmax()
    assert found.view.probability == pytest.approx(found.probabilities.max(), rel=1e-6)
    assert found.control is None
    assert explained(sanity=False, target=3)[2].view.target == 3


def test_a_method_that_fails_does_not_stop_the_others(explained, monkeypatch):
    def breaks(score, image, baseline):
        raise MemoryError("no room\nsecond line")

    for name, function in {
        "breaks": breaks,
        "nan": lambda score, image, baseline: image.sum(-1) * np.nan,
        "flat": lambda score, image, baseline: image[:4, :4, 0] * 0,
    }.items():
        monkeypatch.setitem(METHODS, name, MethodSpec(function, name.title(), "A method of your own."))
    _, _, found = explained(methods=("breaks", "gradient", "nan", "flat"))
    reasons = [one.reason for one in found.methods]
    assert reasons[0] == "MemoryError: no room"
    assert reasons[1] == ""
    assert "NaN" in reasons[2]
    assert reasons[3] == "the map is constant"
    assert [one.importance is None for one in found.methods] == [True, False, True, True]
    assert found.methods[1].evaluations is None or found.methods[1].evaluations > 0


def test_a_method_that_fails_on_the_shuffled_network_keeps_its_map(explained, monkeypatch):
    def fails(*args):
        raise RuntimeError("shuffled")

    program, photo, _ = explained(methods=("gradient",))
    run = program.engine.run
    monkeypatch.setattr(
        program.engine, "run", lambda step, view, other=None: fails() if other else run(step, view)
    )
    found = report.report_photo(program, photo.rgb)
    assert found.methods[0].importance is not None
    assert found.methods[0].check.importance is None
    assert np.isnan(found.methods[0].check.similarity)


def test_a_graph_that_fails_is_a_reason(explained, monkeypatch):
    def full(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(report, "graph_view", full)
    assert explained(sanity=False, sag=True)[2].graph == "MemoryError: no room"
    monkeypatch.setattr(report, "compile_graphs", full)
    assert explained(sanity=False, sag=True)[2].graph == "MemoryError: no room"
