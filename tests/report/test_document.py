"""Reports in words: findings, verdicts, the graph's explanations, and the limits of what they show."""

import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from support import report_runs, tiny
from support.page_reader import PageReader, assert_self_contained

from jaxplain.explanation import Status
from jaxplain.methods import METHODS
from jaxplain.report import document
from jaxplain.runs.report_runs import MethodReport, SanityCheck


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch):
    report_runs.make_quick(monkeypatch)


@pytest.fixture
def explained(tmp_path):
    return lambda **changes: report_runs.explained(tmp_path / "a.png", **changes)


def words(text):
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------------------
# Verdicts


def check(similarity, constant=False):
    return SanityCheck(None, similarity, constant)


def checked(**similarities):
    return tuple(MethodReport(name, check=check(value)) for name, value in similarities.items())


PROGRAM = SimpleNamespace(specs=METHODS)


def test_verdicts_say_what_the_numbers_say():
    values = (0, 0.49, 0.5, 0.79, 0.8, 1, float("nan"))
    assert [document.verdict(check(value)) for value in values] == [
        "passes", "passes", "unclear", "unclear", "fails", "fails", "n/a",
    ]  # fmt: skip
    assert document.verdict(None) == "n/a"
    assert document.verdict_words(check(0, constant=True), False) == "passes: the map becomes constant"
    assert document.verdict_words(check(1.0), True) == "fails, as expected"
    assert document.verdict_words(check(0.1), True) == "passes, but should fail"
    assert document.verdict_words(check(float("nan")), True) == "could not be computed"


def test_the_checks_of_all_methods_in_a_sentence():
    control = MethodReport("edges", check=check(1.0))
    titles = {name: METHODS[name].title for name in ("occlusion", "gradient", "igos")}

    def said(methods, control=control):
        return document.check_words(PROGRAM, methods, control)

    assert said(checked(occlusion=0.1, gradient=0.9)) == (
        f"1 of 2 methods passes. Do not read these as explanations: {titles['gradient']}. "
        "The control, an edge detector, fails as expected."
    )
    assert said(checked(occlusion=0.1, gradient=0.2, igos=0.6)).startswith(
        f"2 of 3 methods pass. Read with care: {titles['igos']}."
    )
    assert said(checked(igos=0.1)).startswith("1 of 1 method passes. The control")
    assert said(checked(igos=0.9)).startswith("0 of 1 method passes. Do not")
    for broken in (MethodReport("edges", check=check(0.2)), MethodReport("edges", "failed"), None):
        assert (
            said((), broken)
            == "The control did not fail as it should, so the check is inconclusive on this photo."
        )


# ---------------------------------------------------------------------------------------------------------
# A photo


def test_a_page_has_everything(explained):
    program, photo, found = explained(methods=("gradient", "smooth-grad"), sag=True)
    page = assert_self_contained(document.page(program, [document.section(program, photo, found)]))
    label = tiny.LABELS[found.view.target]
    for text in (
        f"Why tiny predicts {label}",
        "One photo, explained by 2 methods.",
        f"a.png: {label}, p = ",
        METHODS["smooth-grad"].title,
        METHODS["smooth-grad"].description,
        "fails, as expected",
        "What this page cannot tell",
        "4 x 4 cells",
        "blur, the same for all maps, curves and the graph",
    ):
        assert text in words(page.text)
    assert page.classes.count("card") == page.classes.count("curves") == 2
    assert page.classes.count("check") == 3  # with the control
    assert page.classes.count("graph") == 1
    assert page.text.count("How to read") == 7
    assert words(page.text).count("of the cells that this map ranks highest changes p from") == 2
    command = shlex.split(dict(document.report_parts(program, photo, found).facts)["command"])
    assert command[:3] == ["jaxplain", "report", "a.png"]
    assert command[command.index("--target") + 1] == str(found.view.target)
    assert "--no-sag" not in command


def test_several_photos_are_sections_with_links(explained):
    program, photo, found = explained(methods=("gradient",), sanity=False)
    sections = [document.section(program, photo, found, number) for number in (1, 2)]
    page = assert_self_contained(document.page(program, sections, ["Not on this page: bad.png"]))
    assert "Why tiny makes these predictions" in page.text
    assert "2 photos, each explained by 1 method." in page.text
    assert page.addresses.count("#photo-1") == page.addresses.count("#photo-2") == 1
    assert "Not on this page: bad.png" in page.text
    assert not {"check", "graph"} & set(page.classes)
    assert "sanity" not in page.text.replace("--no-sanity", "").lower()


def test_another_class_than_the_top_one_is_said(explained):
    program, photo, found = explained(methods=("gradient",), sanity=False, target=3)
    shown = document.report_parts(program, photo, found)
    assert [one.label for one in shown.choices if one.explained] == [tiny.LABELS[3]]
    assert len(shown.choices) == 6  # the five most probable classes, and the explained one
    assert any("which is not the top prediction" in text for text in shown.findings)
    assert shown.label == tiny.LABELS[3]


def test_a_failure_is_a_card_with_its_reason(explained):
    program, photo, found = explained(methods=("gradient", "smooth-grad"))
    broken = found._replace(
        methods=(found.methods[0], MethodReport("smooth-grad", "no room")), graph="no memory"
    )
    page = assert_self_contained(document.page(program, [document.section(program, photo, broken)]))
    assert page.classes.count("failed") == 1
    assert "Failed: no room" in page.text
    assert f"Failed on this photo: {METHODS['smooth-grad'].title}." in page.text
    assert "No attention graph: no memory" in page.text


def test_the_pictured_explanations_are_those_that_were_found(explained):
    program, photo, found = explained(methods=("gradient",), sanity=False, sag=True)
    graphed = found.graph
    sets = {
        tuple(np.flatnonzero(graphed.result.explanations[row]).tolist())
        for row in np.flatnonzero(graphed.result.valid)
    }
    shown = document.report_parts(program, photo, found).graph
    whole, *pictures = [tuple(patch for patch, _ in one.outlines) for one in shown.pictures]
    assert whole == tuple(range(9))
    assert len(pictures) == len(set(pictures)) == min(3, len(sets)) > 1
    assert set(pictures) <= sets
    drawn = [node.patches for node in graphed.graph.explanations]
    assert pictures[: len(drawn)] == drawn
    score = tiny.tiny_model()
    for one in shown.pictures[1:]:  # the picture is what the network was shown
        logits = np.asarray(score(score.normalize(one.picture.pixels)[None])[0], np.float64)
        p = np.exp(logits - logits.max())[found.view.target] / np.exp(logits - logits.max()).sum()
        assert p / found.probabilities[found.view.target] > 0.85  # 0.9, less what 8 bits take
    assert f"{len(sets)} minimal sets of patches suffice" in shown.words
    assert ("The graph shows" in shown.words) == (len(drawn) < len(sets))


def graphed(sizes, drawn=1, status=Status.OK, exact=True):
    graph = SimpleNamespace(explanations=(None,) * drawn, grid=(7, 7), threshold=0.9)
    return SimpleNamespace(summary=SimpleNamespace(sizes=sizes, exact=exact), graph=graph, status=status)


def test_what_the_search_found_in_words(explained):
    program, _, _ = explained(methods=("gradient",), sanity=False, sag=True)

    def said(*args, **changes):
        return document.graph_words(program, graphed(*args, **changes))

    assert said((4,)) == (
        "One minimal set of patches suffices: 4 of 49 patches alone keep at least 90% of the score."
    )
    assert said((4, 5, 6), 3) == (
        "3 minimal sets of patches suffice: in each, 4 to 6 of 49 patches alone keep at least 90% of the "
        "score."
    )
    assert said((4, 4, 4), 2).endswith("The graph shows 2 of them, which share at most 1 patch.")
    more = said((4,) * 30, 1, status=Status.BUFFER_FULL)
    assert more.startswith("30 or more minimal sets")
    assert more.endswith("The graph shows 1 of them, because any two share more than 1 patch.")
    assert said((4, 4), 1, exact=False).endswith("The graph shows 1 of them.")
    assert said((), 0, status=Status.NONE_FOUND).startswith(
        "No small set of patches suffices: no sufficient set"
    )


def test_the_limits_name_what_was_done(explained):
    program, _, _ = explained(methods=("gradient",), sanity=False, baseline="black")
    text = words(PageReader(document.page(program, [])).text)
    assert "the baseline (black)" in text
    assert "4 x 4 cells" in text
    assert "sanity" not in text
    assert "sufficient patches" not in text
