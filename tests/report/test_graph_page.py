"""The interactive page of an attention graph: what is in the file, and how it behaves in a real browser."""

import json

import pytest
from support import drawn_graphs
from support.page_reader import (
    DARK,
    NASTY,
    PageReader,
    assert_readable,
    assert_self_contained,
    in_browser,
    use_page,
)

from jaxplain.report import graphs

GRAPHS = [drawn_graphs.usual, drawn_graphs.of_no_patch, drawn_graphs.with_nan, drawn_graphs.empty]


def page(graph, **changes):
    options = {"label": "cat", "probability": 0.5, "engine": "plain"} | changes
    return graphs.graph_page(graph, *drawn_graphs.pictures(), **options)


# ---------------------------------------------------------------------------------------------------------
# The file


def test_everything_foreign_is_shown_as_text():
    plain = assert_self_contained(page(drawn_graphs.usual(), facts=[("a", "b")]))
    nasty = assert_self_contained(
        page(drawn_graphs.usual(), label=NASTY, title=NASTY, facts=[(NASTY, NASTY)])
    )
    assert nasty.text.count(NASTY) == 4  # title, heading, the fact and its name
    assert nasty.tags == plain.tags
    assert len(nasty.scripts) == 2


@pytest.mark.parametrize("make", GRAPHS)
def test_its_data_are_json_and_say_what_the_graph_says(make):
    graph = make()
    reader = PageReader(page(graph.pruned(1), known=graph, probability=float("nan")))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(reader.scripts[0], parse_constant=refuse)
    known = {tuple(patches): share for patches, share in data["known"]}
    for node in graph.nodes:
        expected = None if node.relative != node.relative else pytest.approx(node.relative)
        assert known.pop(node.patches) == expected
    assert not known
    assert [node["explanation"] for node in data["nodes"]].count(True) == len(graph.explanations)
    assert "p = n/a" in reader.text
    assert graph.logic_form() in reader.text


# ---------------------------------------------------------------------------------------------------------
# In a browser

VERDICTS = """
const verdicts = () => all(".verdict").map(v => v.className.replace("verdict ", "") + "|" + v.textContent);
const summary = () => one("#summary").textContent;
const visible = () => places(".node", node => style(node).display !== "none");
const pixel = (x, y) => { const c = one("#photo canvas"), [w, h] = [c.width - 1, c.height - 1];
  return [...c.getContext("2d").getImageData(Math.round(x * w), Math.round(y * h), 1, 1).data]; };
"""


@pytest.fixture
def use(tmp_path):
    """Open a page, run a script on it, and return what the script put into `out`."""

    def run(text, script="", width=1200, flags=()):
        return use_page(tmp_path, text, VERDICTS + script, width, flags)

    return run


@in_browser
def test_hiding_patches_changes_the_verdicts(use):
    """usual(): explanations {0 1 4} at .95 and {1 4 8} at .92; {0 1} .6, {1 4} .5, {4 8} .3."""
    out = use(
        page(drawn_graphs.usual()),
        """
        const patches = all(".patch");
        out.patches = patches.length;
        out.start = verdicts(); out.summaries = [summary()];
        patches[8].click(); patches[8].click(); out.back = verdicts();
        patches[8].click(); out.without8 = verdicts(); out.summaries.push(summary());
        patches[1].click(); out.without18 = verdicts(); out.summaries.push(summary());
        patches[0].click(); patches[4].click(); out.without0148 = verdicts(); out.summaries.push(summary());
        out.pressed = patches.map(p => p.getAttribute("aria-pressed"));
        one("#show-all").click(); out.again = verdicts();
        one("#hide-all").click(); out.none = verdicts();
        """,
    )
    assert out["patches"] == 9
    holds = ["holds|holds: 95% of the score", "holds|holds: 92% of the score"]
    assert out["start"] == out["back"] == out["again"] == holds
    assert out["without8"] == [holds[0], "lost|1 patch hidden: only 50% left"]
    assert out["summaries"] == [
        "2 of 2 explanations still hold.",
        "1 of 2 explanations still holds.",
        "0 of 2 explanations still hold.",
        "0 of 2 explanations still hold; 2 not computed.",
    ]
    assert out["without18"] == ["lost|1 patch hidden: only 10% left", "lost|2 patches hidden: only 2% left"]
    unknown = "unknown|3 patches hidden: the rest was not computed"
    assert out["without0148"] == out["none"] == [unknown] * 2
    assert out["pressed"] == [str(p in (0, 1, 4, 8)).lower() for p in range(9)]


@in_browser
def test_the_photo_shows_the_baseline_where_patches_are_hidden(use):
    pixels, hidden = drawn_graphs.pictures()
    out = use(
        page(drawn_graphs.usual()),
        """
        out.before = pixel(0, 0); all(".patch")[0].click();
        out.after = pixel(0, 0); out.far = pixel(1, 1);
        """,
    )
    assert out["before"][:3] == pytest.approx(pixels[0, 0].tolist(), abs=30)  # JPEG
    assert out["after"][:3] == pytest.approx(hidden[0, 0].tolist(), abs=6)
    assert out["far"][:3] == pytest.approx(pixels[-1, -1].tolist(), abs=30)


@in_browser
def test_everything_can_be_done_with_the_keyboard(use):
    out = use(
        page(drawn_graphs.usual()),
        """
        const patches = all(".patch"), current = () => patches.indexOf(doc.activeElement);
        out.stops = patches.filter(p => p.tabIndex === 0).length;
        patches[0].focus(); out.way = [];
        for (const key of ["ArrowLeft", "ArrowRight", "ArrowDown", "End", "ArrowRight", "ArrowUp", "Home"]) {
          press(doc.activeElement, key); out.way.push(current()); }
        out.names = patches.map(p => p.getAttribute("aria-label"));
        const node = all(".node")[3];
        node.focus(); press(node, "Enter");
        out.shown = places(".patch", p => p.getAttribute("aria-pressed") === "false");
        out.label = node.getAttribute("aria-label"); out.stop = node.getAttribute("tabindex");
        """,
    )
    node = drawn_graphs.usual().nodes[3]
    assert out["stops"] == 1  # one tab stop, then arrows
    assert out["way"] == [0, 1, 4, 5, 5, 2, 0]
    assert out["names"][5] == "patch P5, row 2, column 3, visible"
    assert out["shown"] == list(node.patches)
    assert (out["label"], out["stop"]) == ("P1 P4, 50% of the score; show only these patches", "0")


@in_browser
def test_explanations_can_be_switched_off_and_pointing_outlines_patches(use):
    graph = drawn_graphs.usual()
    out = use(
        page(graph),
        """
        const boxes = all("#explanations input");
        out.start = visible(); boxes[0].click(); out.second = visible();
        boxes[1].click(); out.none = visible();
        boxes[0].click(); out.first = visible(); boxes[1].click();
        const lit = () => places(".patch", p => p.classList.contains("lit"));
        const node = all(".node")[2];
        node.dispatchEvent(new page.MouseEvent("mouseenter")); out.lit = lit();
        out.near = places(".node", n => n.classList.contains("near"));
        node.dispatchEvent(new page.MouseEvent("mouseleave")); out.dark = lit();
        all("#explanations button")[1].click();
        out.only = places(".patch", p => p.getAttribute("aria-pressed") === "false");
        """,
    )

    def below(top):
        return [index for index, node in enumerate(graph.nodes) if set(node.patches) <= set(top.patches)]

    first, second = graph.explanations
    assert out["start"] == list(range(len(graph.nodes)))
    assert out["first"] == below(first)
    assert out["second"] == below(second)
    assert out["none"] == []
    assert out["lit"] == list(graph.nodes[2].patches)
    assert out["dark"] == []
    assert out["near"] == [
        index
        for index, node in enumerate(graph.nodes)
        if set(node.patches) <= {0, 1} or set(node.patches) >= {0, 1}
    ]
    assert out["only"] == list(second.patches)


@in_browser
@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize(("width", "flags"), [(360, ()), (1200, DARK)], ids=["phone", "dark desk"])
def test_it_fits_and_can_be_read(use, make, width, flags):
    long_word = "explanation" * 20
    out = use(
        page(make(), label=long_word, title=long_word, facts=[("photo", long_word)]),
        """
        out.start = summary();
        all(".patch")[4].click(); out.verdicts = verdicts(); out.summary = summary();
        out.photo = one("#photo").getBoundingClientRect().width;
        out.colors = [doc.body, ...all(".muted, .verdict, button.plain, th")].map(one => style(one).color);
        out.page = style(doc.body).backgroundColor;
        """,
        width,
        flags,
    )
    assert out["photo"] > 240  # patches large enough for a finger
    assert_readable(out["page"], out["colors"])
    if make is drawn_graphs.empty:
        assert out["summary"] == "No sufficient set was found."
    if make is drawn_graphs.of_no_patch:
        assert out["verdicts"] == ["holds|holds: 95% of the score"]
        assert out["summary"] == "1 of 1 explanation still holds."
    if make is drawn_graphs.with_nan:
        assert out["start"] == "1 of 1 explanation still holds."
        assert out["verdicts"] == ["unknown|1 patch hidden: the score of the rest is not finite"]
        assert out["summary"] == "0 of 1 explanation still holds; 1 not computed."


@in_browser
def test_nasty_text_runs_nowhere(use):
    out = use(
        page(drawn_graphs.usual(), label=NASTY, title=NASTY, facts=[(NASTY, NASTY)]),
        "out.heading = one('h1').textContent;",
        360,
    )
    assert out["title"] == NASTY
    assert out["heading"].startswith(f"Why {NASTY}?")
