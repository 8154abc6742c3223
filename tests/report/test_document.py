"""`jaxplain report`: what is on the page, what it costs when something fails, and the page in a browser."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import write_photo
from typer.testing import CliRunner

from jaxplain import render, zoo
from jaxplain.cli import app as cli
from jaxplain.cli import report as command
from jaxplain.compare import METHODS, Settings, compare
from jaxplain.files import OutputError
from jaxplain.jobs import report as job
from jaxplain.jobs import report_page, report_words
from jaxplain.jobs.photos import read_photo
from jaxplain.render import Curve
from jaxplain.render import report as parts
from jaxplain.render.report import drawings
from jaxplain.sag import AttentionGraph, Edge, Node

SOME = "gradient,occlusion,igos++"
QUICK = ("--model", "tiny", "--size", "4", "--methods", SOME)
NASTY = "</script><b onload='x'>$a ${b} \"&'"
VOID = {"meta", "img", "br", "link", "input"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian's package chromium)")


@pytest.fixture(autouse=True)
def quick_world(tmp_path, monkeypatch):
    """An empty current folder, a small model with shipped weights, and no program compiled twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    monkeypatch.setattr(command, "compile_report", compiled)
    monkeypatch.setattr(job, "compile_sag", small_graph)
    tiny.write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")


_programs = {}


def compiled(what, classifier, tell=lambda doing: None):
    """A job's program, made once for all tests; neither seed, target nor weights are part of it."""
    key = repr(replace(what, seed=0, target=None)) + repr([METHODS[name] for name in what.methods])
    if key not in _programs:
        _programs[key] = job.compile_report(what, classifier, tell)
    return _programs[key]._replace(job=what, classifier=classifier)


def small_graph(what, classifier):
    return tiny.compiled(replace(what, grid=(3, 3), candidates=None, max_size=9), classifier)


def run(*args):
    return CliRunner(env={"COLUMNS": "160"}).invoke(cli.app, ["report", *map(str, args)])


def words(text):
    return " ".join(text.split())


class Reader(HTMLParser):
    """A page, read strictly: every element is closed, in order; no attribute comes twice."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.images, self.ids, self.headings = [], [], [], [], [], []
        self.classes, self.text = [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes), (tag, attributes)
        self.tags.append(tag)
        self.open += [tag] * (tag not in VOID)
        self.addresses += [found[name] for name in ("src", "href", "action", "xlink:href") if name in found]
        self.images += [found] * (tag == "img")
        self.ids += [value for name, value in attributes if name == "id"]
        self.classes += found.get("class", "").split()
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def read(path="report.html"):
    return Reader(Path(path).read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------
# The command


def test_one_file_has_everything():
    write_photo(Path("a.png"))
    model = tiny.tiny_model()
    top = int(np.argmax(model(model.preprocess(tiny.photo())[None])[0]))
    label = tiny.LABELS[top]
    done = run("a.png", *QUICK)
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path().iterdir()} == {"a.png", "report.html", "site"}
    page = read()
    for said in (f"Why tiny says {label}", f"a.png: {label}, p = ", "Occlusion", "iGOS++", "Edge detector"):
        assert said in page.text
    assert page.classes.count("card") == 3
    assert page.classes.count("curves") == 3
    assert page.text.count("% that this map calls most important takes p from") == 3
    assert page.classes.count("check") == 4  # with the control
    assert "fails, as it must" in page.text
    assert page.classes.count("graph") == 1
    assert re.search("minimal sets? of patches suffices?", page.text)
    assert page.text.count("How to read") == 7
    assert "What this page cannot tell" in page.text
    for name, value in (
        ("baseline", "blur"),
        ("seed", "0"),
        ("maps", "4 x 4 cells"),
        ("explained", f"({top})"),
    ):
        assert re.search(rf"{name}.*{re.escape(value)}", page.text)
    row = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["a.png"])
    assert row.split()[1:2] == label.split()[:1]
    assert " 3 of 3 " in row
    assert "Open report.html in a browser" in words(done.stdout)


def test_the_page_needs_nothing_else_and_can_be_read_by_all():
    for seed, name in enumerate("ab"):
        write_photo(Path(f"{name}.png"), seed)
    assert run("a.png", "b.png", *QUICK).exit_code == 0
    page, text = read(), Path("report.html").read_text(encoding="utf-8")
    assert all(address.startswith(("data:", "#photo-")) for address in page.addresses)
    assert not re.search(r"(?:https?:)?//[a-z]|url\(|@import|<script", text)
    assert all(image["alt"] and image["width"] and image["height"] for image in page.images)
    assert len(page.ids) == len(set(page.ids))
    assert page.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert len(text) < 1_000_000


def test_several_photos_are_sections_and_one_that_cannot_be_read_is_told():
    write_photo(Path("a.png")), write_photo(Path("b.png"), 1)
    Path("bad.png").write_text("no photo")
    done = run("a.png", "bad.png", "b.png", "a.png", *QUICK, "--no-sag", "--out", "new/page.html")
    assert done.exit_code == 1
    assert "1 of 3 photos failed" in done.stderr
    assert "Traceback" not in done.output
    page = read("new/page.html")
    assert page.classes.count("photo") == 2
    assert page.addresses.count("#photo-1") == page.addresses.count("#photo-2") == 1
    assert "Not on this page: bad.png" in page.text
    assert "graph" not in page.classes
    assert [path.name for path in Path("new").iterdir()] == ["page.html"]


def test_nothing_is_written_where_nothing_can_be_read():
    Path("bad.png").write_text("no photo")
    assert run("bad.png", *QUICK).exit_code == 1
    assert not Path("report.html").exists()


def test_a_method_that_fails_is_a_card_with_its_reason(monkeypatch):
    write_photo(Path("a.png"))
    monkeypatch.setitem(METHODS, "rise", lambda score, image, baseline: jnp.zeros(NASTY))
    monkeypatch.setitem(METHODS, "occlusion", lambda score, image, baseline: image.sum(-1) * jnp.nan)
    monkeypatch.setitem(METHODS, "var_grad", lambda score, image, baseline: jnp.ones((4, 4)))
    methods = "rise,gradient,occlusion,var_grad"
    done = run("a.png", "--model", "tiny", "--size", "4", "--methods", methods, "--no-sag")
    assert done.exit_code == 0, done.output
    page = read()
    assert page.classes.count("failed") == 3
    assert page.classes.count("curves") == 1
    for reason in ("Failed: TypeError", "Failed: the score is NaN", "Failed: the map is the same everywhere"):
        assert reason in page.text
    assert "Failed on this photo: RISE, Occlusion, VarGrad." in page.text
    assert "a.png: occlusion: the score is NaN" in words(done.stderr)
    assert "1 of 4" in words(done.stdout)


def test_a_graph_that_fails_is_told(monkeypatch):
    write_photo(Path("a.png"))

    def full(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(job, "explain_sag", full)
    done = run("a.png", *QUICK, "--no-sanity")
    assert done.exit_code == 0, done.output
    page = read()
    assert "No attention graph: MemoryError: no room" in page.text
    assert "check" not in page.classes
    assert "Sanity" not in page.text
    assert "a.png: attention graph: MemoryError" in words(done.stderr)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--methods", "gradent"), "did you mean 'gradient'"),
        (("--methods", ","), "--methods must name at least one"),
        (("--size", "0"), "size must be at least 1, got 0"),
        (("--size", "33"), "size 33 is finer than the input of tiny"),
        (("--baseline", "blak"), "did you mean 'black'"),
        (("--seed", "-1"), "seed must be in 0.."),
        (("--target", "tabbby"), "tabby"),
        (("--target", "1000"), "1000"),
        (("--model", "tinny"), "tinny"),
        (("--out", "page.png"), "--out must be a file that ends in .html, got page.png"),
        (("--out", "folder"), "--out must be a file that ends in .html, got folder"),
        (("--out", "diary.html"), "diary.html is there and no report of jaxplain"),
        (("--out", "a.png/page.html"), "a.png"),
    ],
)
def test_a_wrong_command_is_refused_before_any_work(monkeypatch, args, told):
    write_photo(Path("a.png"))
    Path("diary.html").write_text("mine")
    monkeypatch.setattr(command, "compile_report", None)
    done = run("a.png", "--model", "tiny", *args)
    assert done.exit_code == 2
    assert told in words(done.stderr)
    assert "Traceback" not in done.output
    assert Path("diary.html").read_text() == "mine"
    assert not Path("report.html").exists()


def test_its_own_page_is_replaced_and_ctrl_c_keeps_the_photos_that_are_done(monkeypatch):
    for seed, name in enumerate("abc"):
        write_photo(Path(f"{name}.png"), seed)
    assert run("a.png", "b.png", *QUICK, "--no-sag", "--no-sanity").exit_code == 0
    real, calls = command.explain_report, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(command, "explain_report", interrupted)
    done = run("c.png", "a.png", "b.png", *QUICK, "--no-sag", "--no-sanity")
    assert done.exit_code == 130
    assert "1 of 3 photos were done" in done.stderr
    page = read()
    assert page.classes.count("photo") == 1
    assert "c.png" in page.text


def test_a_disk_that_is_full_fails_the_photo_and_keeps_the_older_page(monkeypatch):
    write_photo(Path("a.png"))
    assert run("a.png", *QUICK, "--no-sag", "--no-sanity").exit_code == 0
    before = Path("report.html").read_bytes()

    def full(path, data):
        raise OutputError("cannot write report.html: the disk is full.")

    monkeypatch.setattr(command, "write_atomic", full)
    done = run("a.png", *QUICK, "--no-sag", "--no-sanity", "--seed", "1")
    assert done.exit_code == 1
    assert "the disk is full" in done.stderr
    assert Path("report.html").read_bytes() == before


def test_what_is_being_done_is_told_and_help_has_examples():
    write_photo(Path("a.png"))
    _programs.clear()
    done = run("a.png", *QUICK)
    told = [line for line in done.stderr.splitlines() if line.startswith("[1/1]")]
    assert "[1/1] compiling igos++" in told
    assert "[1/1] compiling the attention graph" in told
    assert "[1/1] a.png: occlusion" in told
    assert re.search(r"Examples:.*jaxplain report ", run("--help").stdout, re.DOTALL)


# ---------------------------------------------------------------------------------------------------------
# What is computed


def explained(**changes):
    what = job.ReportJob(**{"methods": ("gradient", "edges", "igos++"), "size": 4, "sag": False} | changes)
    classifier = tiny.tiny_model()
    program = compiled(what, classifier)
    photo = read_photo(write_photo(Path("a.png")))
    return program, photo, job.explain_report(program, photo.rgb)


def test_the_figures_are_those_of_jaxplain_compare():
    _, _, found = explained()
    settings = Settings(("deletion", "insertion", "parameter_randomization"))
    methods = {one.method: METHODS[one.method] for one in found.maps}
    rows = compare([Path("a.png")], [tiny.tiny_model()], methods, sizes=(4,), settings=settings).rows
    for one, row in zip(found.maps, rows, strict=True):
        assert one.method == row.method
        expected = [row.values[name] for name in settings.measures]
        figures = [one.curves.deletion_area, one.curves.insertion_area, one.check.rank]
        assert [float(value) for value in figures] == pytest.approx(expected, abs=1e-6)
    assert found.control.check.rank == pytest.approx(1)
    assert found.control is found.maps[1]  # not computed twice


def test_the_target_is_the_top_class_or_the_one_that_is_named():
    _, _, found = explained(sanity=False)
    assert found.target == found.probabilities.argmax()
    assert found.control is None
    program, photo, other = explained(sanity=False, target=3)
    assert other.target == 3
    shown = report_page.report(program, photo, other)
    assert [one.label for one in shown.choices if one.explained] == [tiny.LABELS[3]]
    assert len(shown.choices) == 6  # the five of highest probability, and it
    assert any("not its first choice" in text for text in shown.findings)
    assert shown.label == tiny.LABELS[3]


def test_the_explanations_that_are_pictured_are_those_that_were_found():
    program, photo, found = explained(methods=("gradient",), sanity=False, sag=True)
    sag = found.sag
    sets = {
        tuple(np.flatnonzero(one).tolist()) for one in np.asarray(sag.roots.sets)[np.asarray(sag.roots.valid)]
    }
    shown = report_page.report(program, photo, found).graph
    whole, *roots = shown.roots
    assert whole.patches == tuple(range(9))
    assert len(roots) == min(3, len(sets)) > 1
    assert len({root.patches for root in roots}) == len(roots)
    assert {root.patches for root in roots} <= sets
    drawn = [node.patches for node in sag.graph.roots]
    assert [root.patches for root in roots[: len(drawn)]] == drawn
    score = tiny.tiny_model()
    for root in roots:  # the picture is what the network was shown
        logits = score(score.normalize(root.picture.rgb)[None])[0]
        p = np.exp(logits - logits.max())[found.target] / np.exp(logits - logits.max()).sum()
        assert p / found.probabilities[found.target] > 0.85  # 0.9, less what 8 bits take
    assert f"{len(sets)} minimal sets of patches suffice" in shown.words
    assert ("The graph shows" in shown.words) == (len(drawn) < len(sets))


def check(rank, flat=False):
    return job.Check(None, rank, flat)


def test_verdicts_say_what_the_numbers_say():
    assert [report_words.verdict(check(rank)) for rank in (0, 0.49, 0.5, 0.79, 0.8, 1, float("nan"))] == [
        "passes", "passes", "unclear", "unclear", "fails", "fails", "n/a",
    ]  # fmt: skip
    assert "nothing of the map" in report_words.verdict_words(check(0, flat=True), False)
    assert report_words.verdict_words(check(1.0), True) == "fails, as it must"
    assert "must fail" in report_words.verdict_words(check(0.1), True)
    maps = tuple(job.Found(name, check=check(rank)) for name, rank in (("rise", 0.1), ("gradient", 0.9)))
    good = report_words.check_words(maps, job.Found("edges", check=check(1.0)))
    assert good == (
        "1 of 2 methods pass. Do not read as explanations: Gradient. "
        "The control, an edge detector, fails as it must."
    )
    bad = report_words.check_words(maps, job.Found("edges", check=check(0.2)))
    assert bad.endswith("the check says little.")
    assert report_words.check_words((), None).endswith("the check says little.")


def test_every_method_has_a_name_and_a_sentence():
    assert all(report_words.title(name) and report_words.about(name).endswith(".") for name in METHODS)


# ---------------------------------------------------------------------------------------------------------
# The page


def pictures():
    rgb = tiny.photo(0, 32, 32)
    return rgb, np.full_like(rgb, 128)


def a_report(**changes):
    rgb, hidden = pictures()
    curve = Curve([0, 0.5, 1], [0.5, float("nan"), 0.1], float("nan"))
    picture = parts.Picture(rgb, NASTY, NASTY)
    nodes = (Node((0, 1), 0.5, 0.9, 0, True), Node((0,), 0.2, 0.4, 1, False))
    graph = AttentionGraph((2, 2), 0.55, 0.1, 0.9, 0.4, nodes, (Edge(0, 1, 1, 0.3),))
    fields = {
        "title": NASTY,
        "label": NASTY,
        "probability": float("nan"),
        "photo": picture,
        "findings": (NASTY,),
        "choices": (parts.Choice(NASTY, 0.5, True), parts.Choice(NASTY, float("nan"), False)),
        "cards": (
            parts.Card(NASTY, NASTY, picture, curve, curve, NASTY, "passes"),
            parts.Card(NASTY, NASTY, reason=NASTY),
        ),
        "checks": (parts.Check(NASTY, picture, None, float("nan"), "n/a", NASTY),),
        "check_words": NASTY,
        "graph": parts.Graph(graph, hidden, (parts.Root(picture, (0, 3)),), NASTY),
        "figures": parts.Figures((NASTY, "b"), ((NASTY, "1"), (NASTY, "2")), frozenset({(1, 1)})),
        "facts": ((NASTY, NASTY),),
    }
    return parts.Report(**(fields | changes))


def a_page(*reports, **changes):
    options = {"title": NASTY, "summary": NASTY, "limits": [NASTY], "notes": [NASTY], "made": NASTY}
    sections = [render.report_section(one, at) for at, one in enumerate(reports or [a_report()] * 2, 1)]
    return render.report_page(sections, **(options | changes))


def test_everything_foreign_is_shown_as_text():
    text = a_page()
    page = Reader(text)
    assert not re.search(r"<b onload|</script", text)
    assert page.text.count(NASTY) == 6 + 2 * 26
    assert any(image["alt"] == NASTY for image in page.images)
    assert "<strong>2</strong>" in text
    assert "<strong>1</strong>" not in text


def test_a_hostile_file_name_is_only_a_name():
    name = "<b onload='x'>&amp;$a\x1b\udcff.png"
    try:
        write_photo(Path(name))
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    done = run(name, *QUICK, "--no-sag", "--no-sanity")
    assert done.exit_code == 0, done.output
    assert (
        read().text.count("<b onload='x'>&amp;$a\x1b\\udcff.png") == 2
    )  # heading and facts; quoted in the command
    assert "\x1b" not in done.output


def test_what_is_missing_is_left_out():
    page = Reader(a_page(a_report(checks=(), graph=None, cards=())))
    assert not {"check", "graph", "card"} & set(page.classes)
    assert "nav" not in page.tags  # one photo needs no links
    assert "Failed" not in page.text
    none = AttentionGraph((2, 2), 0.5, 0.1, 0.9, 0.4, (), ())
    page = Reader(a_page(a_report(graph=parts.Graph(none, pictures()[1], (), "nothing found"))))
    assert "nothing found" in page.text
    assert "graph" not in page.classes


def points(text, kind):
    line = re.search(rf"<path class='{kind} line' d='M([^']+)'", text)[1]
    return [tuple(map(float, point.split())) for point in line.split("L")]


def test_curves_are_drawn_where_they_are():
    deletion, insertion = Curve([0, 0.5, 1], [0.4, 0.1, 0.0], 0.2), Curve([0, 0.5, 1], [0.0, 0.3, 0.4], 0.3)
    text = drawings.curves_svg(deletion, insertion, 0.4, "x")
    down, up = points(text, "del"), points(text, "ins")
    ticks = [float(y) for y in re.findall(r"class='grid' d='M[\d.]+ ([\d.]+)H", text)]
    assert [down[2][1], down[0][1]] == [ticks[0], ticks[2]]  # on the lines of 0 and 0.4
    words = [float(y) for y in re.findall(r"y='([\d.]+)' text-anchor='middle'", text)]
    assert 0 < ticks[2] < ticks[1] < ticks[0] < words[0] - 8  # what stands below the axis is not hit
    assert down[0][1] == up[-1][1] < up[1][1] < down[1][1] < down[-1][1] == up[0][1]
    assert down[1][0] == pytest.approx((down[0][0] + down[2][0]) / 2, abs=0.1)
    height = down[2][1] - down[0][1]
    assert up[1][1] == pytest.approx(up[0][1] - 0.75 * height, abs=0.2)
    assert drawings.axis_top([deletion, insertion]) == 0.4
    assert drawings.axis_top([Curve([0], [float("nan")], 0)]) == 1
    nan = Curve([0, 0.5, 1], [0.4, float("nan"), 0.0], 0)
    assert len(points(drawings.curves_svg(nan, nan, 0.4, "x"), "del")) == 2


def test_bars_are_as_long_as_their_numbers():
    choices = (parts.Choice("a", 0.25, True), parts.Choice("b", float("nan"), False))
    text = a_page(a_report(choices=choices, checks=()))
    assert re.findall(r"<i style='width:([\d.]+)%'>", text) == ["25.0", "0.0"]


# ---------------------------------------------------------------------------------------------------------
# In a browser

HARNESS = """<!doctype html><meta charset="utf-8"><iframe id="f" width="{width}" height="900"></iframe>
<pre id="out"></pre><script>
const frame = document.getElementById("f");
frame.onload = () => setTimeout(() => {{
  const doc = frame.contentDocument, all = query => [...doc.querySelectorAll(query)];
  const wide = element => element.getBoundingClientRect().width;
  document.getElementById("out").textContent = JSON.stringify({{
    overflow: doc.documentElement.scrollWidth - doc.documentElement.clientWidth,
    cards: all(".card").map(one => Math.round(one.getBoundingClientRect().top)),
    images: all("img").map(one => one.naturalWidth),
    small: all("img, svg.curves").map(wide).filter(width => width < 80).length,
    title: doc.title,
    clipped: all("h1, h2, h4, td, th, .areas span").filter(
      one => !one.closest(".scroller") && one.scrollWidth > one.clientWidth + 1 && one.clientWidth).length,
    colors: [doc.body, ...all(".muted, .ins, .del, .fails, .passes")].map(
      one => frame.contentWindow.getComputedStyle(one).color),
    page: frame.contentWindow.getComputedStyle(doc.body).backgroundColor,
  }});
}}, 300);
frame.srcdoc = {page};
</script>"""


@pytest.fixture
def look(tmp_path):
    """A page in Chromium, in a frame of some width."""
    import json

    def look(text, width, *flags):
        harness = tmp_path / "harness.html"
        inert = json.dumps(text).replace("<", "\\u003c")
        harness.write_text(HARNESS.format(width=width, page=inert), encoding="utf-8")
        command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
        command += [*flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", harness.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr[-2000:]
        return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))

    return look


def luminance(color):
    levels = [int(level) / 255 for level in re.findall(r"\d+", color)[:3]]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@in_browser
@pytest.mark.parametrize("flags", [(), ("--blink-settings=preferredColorScheme=0",)])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_a_phone_and_a_desk_and_can_be_read(look, width, flags):
    long_word = "explanation" * 20
    cards = a_report().cards * 3
    out = look(a_page(a_report(title=long_word, label=long_word, cards=cards)), width, *flags)
    assert out["overflow"] <= 0
    assert out["small"] == 0
    assert all(out["images"])
    assert out["title"] == NASTY  # nasty text has run nowhere
    assert len(set(out["cards"])) == (6 if width == 360 else 2)
    page = luminance(out["page"])
    assert (page < 0.05) == bool(flags)  # dark where dark is wanted
    for color in out["colors"]:
        low, high = sorted([page, luminance(color)])
        assert (high + 0.05) / (low + 0.05) >= 4.5
