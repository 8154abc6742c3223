"""The page of a report: texts are text, curves and bars are as long as their numbers, and it can be read."""

import re
from importlib.resources import files
from types import SimpleNamespace

import jinja2
import pytest
from support import drawn_graphs, tiny
from support.page_reader import (
    DARK,
    NASTY,
    PageReader,
    assert_readable,
    assert_self_contained,
    in_browser,
    use_page,
)

from jaxplain import overlay
from jaxplain.report import document, graphs, pages
from jaxplain.report.pages import (
    Card,
    CheckedMap,
    Choice,
    Curve,
    Figures,
    GraphPart,
    PatchPicture,
    Picture,
    Report,
)

NAN = float("nan")


def a_picture(words=NASTY):
    return Picture(tiny.photo(0, 32, 32), words, words)


def a_report(**changes):
    curve = Curve([0, 0.5, 1], [0.5, NAN, 0.1], NAN)
    pixels, hidden = drawn_graphs.pictures()
    drawing = graphs.draw(drawn_graphs.usual(), pixels, hidden, "plain")
    boxes = graphs.outlines((2, 2))
    fields = {
        "title": NASTY,
        "label": NASTY,
        "probability": NAN,
        "photo": a_picture(),
        "findings": (NASTY,),
        "choices": (Choice(NASTY, 0.5, True), Choice(NASTY, NAN, False)),
        "cards": (
            Card(NASTY, NASTY, a_picture(), curve, curve, NASTY, "passes"),
            Card(NASTY, NASTY, reason=NASTY),
        ),
        "checks": (CheckedMap(NASTY, a_picture(), None, NAN, "n/a", NASTY),),
        "check_words": NASTY,
        "graph": GraphPart(drawing, (PatchPicture(a_picture(), ((0, boxes[0]), (3, boxes[3]))),), NASTY),
        "figures": Figures((NASTY, "b"), ((NASTY, "1"), (NASTY, "2")), frozenset({(1, 1)})),
        "facts": ((NASTY, NASTY),),
    }
    return Report(**(fields | changes))


def a_page(*reports):
    settings = {"methods": (), "baseline": NASTY, "size": 4, "sanity": False, "sag": False}
    engine = SimpleNamespace(classifier=SimpleNamespace(name=NASTY))
    program = SimpleNamespace(engine=engine, settings=SimpleNamespace(**settings))
    sections = [
        pages.report_section(one, number) for number, one in enumerate(reports or [a_report()] * 2, 1)
    ]
    return document.page(program, sections, [NASTY])


def test_everything_foreign_is_shown_as_text():
    text = a_page()
    page = assert_self_contained(text)
    assert not {"script", "b onload"} & set(page.tags)
    assert page.text.count(NASTY) == 4 + 2 * 26
    assert [image["alt"] for image in page.images] == [NASTY] * 8
    assert "<strong>2</strong>" in text
    assert "<strong>1</strong>" not in text


def test_what_is_missing_is_left_out():
    page = assert_self_contained(a_page(a_report(checks=(), graph=None, cards=())))
    assert not {"check", "graph", "card"} & set(page.classes)
    assert "nav" not in page.tags  # one photo needs no links
    assert "Failed" not in page.text
    nothing = graphs.draw(drawn_graphs.empty(), *drawn_graphs.pictures())
    page = assert_self_contained(a_page(a_report(graph=GraphPart(nothing, (), "nothing found"))))
    assert "nothing found" in page.text
    assert "graph" not in page.classes
    page = assert_self_contained(a_page(a_report(graph="no room")))
    assert "No attention graph: no room" in page.text


def points(text, kind):
    line = re.search(rf'<path class="{kind} line" d="M([^"]+)"', text)[1]
    return [tuple(map(float, point.split())) for point in line.split("L")]


def section_with(deletion, insertion):
    card = Card("a", "b", a_picture(), deletion, insertion)
    return pages.report_section(a_report(cards=(card,), graph=None)).html


def test_curves_are_drawn_where_they_are():
    deletion, insertion = Curve([0, 0.5, 1], [0.4, 0.1, 0.0], 0.2), Curve([0, 0.5, 1], [0.0, 0.3, 0.4], 0.3)
    text = section_with(deletion, insertion)
    down, up = points(text, "del"), points(text, "ins")
    ticks = [float(y) for y in re.findall(r'class="grid" d="M[\d.]+ ([\d.]+)H', text)]
    assert [down[2][1], down[0][1]] == [ticks[0], ticks[2]]  # on the lines of 0 and 0.4
    words = float(re.search(r'y="([\d.]+)" text-anchor="middle">cells', text)[1])
    assert 0 < ticks[2] < ticks[1] < ticks[0] < words - 8  # the label below the axis does not touch it
    assert down[0][1] == up[-1][1] < up[1][1] < down[1][1] < down[-1][1] == up[0][1]
    assert down[1][0] == pytest.approx((down[0][0] + down[2][0]) / 2, abs=0.1)
    assert up[1][1] == pytest.approx(up[0][1] - 0.75 * (down[2][1] - down[0][1]), abs=0.2)
    assert "deletion <b>0.200</b>" in text
    broken = Curve([0, 0.5, 1], [0.4, NAN, 0.0], NAN)
    text = section_with(broken, broken)
    assert len(points(text, "del")) == 2
    assert "deletion <b>n/a</b>" in text
    empty = Curve([0, 1], [NAN, NAN], NAN)
    assert "del line" not in section_with(empty, empty)


def test_bars_are_as_long_as_their_numbers():
    choices = (Choice("a", 0.25, True), Choice("b", NAN, False))
    text = a_page(a_report(choices=choices, checks=()))
    assert re.findall(r'<i style="width:([\d.]+)%">', text) == ["25.0", "0.0"]


def test_the_scale_has_the_colors_of_the_heatmaps():
    first, *_, last = (tuple(color) for color in overlay.heatmap([[0.0, 1.0]], (1, 9))[0].tolist())
    scale = re.search(r"linear-gradient\(to right, ([^)]+)\)", a_page())[1].split(", ")
    assert scale[0] == "#{:02x}{:02x}{:02x}".format(*first)
    assert scale[-1] == "#{:02x}{:02x}{:02x}".format(*last)
    assert len(scale) == 9


def test_patches_are_outlined_where_they_lie():
    text = pages.report_section(a_report()).html
    rects = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/><text', text)
    assert [tuple(map(float, rect)) for rect in rects] == [(0, 0, 50, 50), (50, 50, 50, 50)]


def test_a_missing_value_is_an_error_and_templates_are_installed():
    with pytest.raises(jinja2.UndefinedError):
        pages.render("report.html", title="only a title")
    names = {path.name for path in files("jaxplain.report").joinpath("templates").iterdir()}
    assert names == {
        "base.html", "graph.html", "graph.svg", "parts.html", "report.html", "section.html", "sheets.html",
    }  # fmt: skip


@in_browser
@pytest.mark.parametrize("flags", [(), DARK], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_a_phone_and_a_desk_and_can_be_read(tmp_path, width, flags):
    long_word = "explanation" * 20
    cards = a_report().cards * 3
    text = a_page(a_report(title=long_word, label=long_word, cards=cards))
    out = use_page(
        tmp_path,
        text,
        """
        const width = element => element.getBoundingClientRect().width;
        out.cards = all(".card").map(card => Math.round(card.getBoundingClientRect().top));
        out.images = all("img").map(image => image.naturalWidth);
        out.small = all("img, svg.curves").map(width).filter(width => width < 80).length;
        const isClipped = one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth;
        out.clipped = all("h1, h2, h4, td, th, .aucs span").filter(
          one => !one.closest(".scroller") && isClipped(one)).length;
        out.colors = [doc.body, ...all(".muted, .ins, .del, .fails, .passes")].map(one => style(one).color);
        out.page = style(doc.body).backgroundColor;
        """,
        width,
        flags,
    )
    assert out["small"] == out["clipped"] == 0
    assert all(out["images"])
    assert out["title"] == f"Why {NASTY} predicts {long_word}"  # nasty text has run nowhere
    assert len(set(out["cards"])) == (6 if width == 360 else 2)
    assert (sum(map(int, re.findall(r"\d+", out["page"])[:3])) < 150) == bool(
        flags
    )  # dark where that is wanted
    assert_readable(out["page"], out["colors"])


def test_numbers_are_written_for_people():
    assert [pages.percent_text(value) for value in (0.049, 1.05, NAN)] == ["5%", "105%", "n/a"]
    assert PageReader(a_page()).text.count("n/a") >= 4
