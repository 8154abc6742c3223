"""The interactive page: what is in the file, and how it behaves in a real browser."""

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import graphs
import pytest

from jaxplain import render
from jaxplain.render.graph import page as pages

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian's package chromium)")
NASTY = "</script><script>document.title='broken'</script><b>&\"'"


def page(graph, **changes):
    options = {"label": "cat", "probability": 0.5, "engine": "plain"} | changes
    return render.graph_page(graph, *graphs.pictures(), **options)


# ---------------------------------------------------------------------------------------------------------
# The file


class Reader(HTMLParser):
    """Tags and text of a page; the content of script elements apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.addresses, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.scripts += [""] * (tag == "script")
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]

    def handle_data(self, data):
        if self.tags[-1:] == ["script"] and self.cdata_elem:
            self.scripts[-1] += data
        else:
            self.text += data


def test_everything_foreign_is_shown_as_text():
    plain = Reader(page(graphs.usual()))
    nasty = Reader(page(graphs.usual(), label=NASTY, title=NASTY, facts=[(NASTY, NASTY)]))
    assert nasty.text.count(NASTY) == 4  # title, heading, the fact and its name
    facts = ["tr", "td", "td"]
    assert sorted(nasty.tags) == sorted(plain.tags + facts)
    assert len(nasty.scripts) == len(plain.scripts) == 2


def test_text_in_the_data_could_not_end_their_element():
    """Today they hold numbers and pictures only."""
    inert = pages._inert({"name": NASTY})
    assert "<" not in inert
    assert json.loads(inert) == {"name": NASTY}


def test_the_page_needs_nothing_else():
    text = page(graphs.usual())
    assert all(address.startswith("data:") for address in Reader(text).addresses)
    assert not re.findall(r"(?:https?:)?//[a-z]", text.replace("http://www.w3.org/2000/svg", ""))
    assert "$" not in text.replace("${", "")  # the template is filled


@pytest.mark.parametrize("make", [graphs.usual, graphs.of_no_patch, graphs.with_nan, graphs.empty])
def test_its_data_are_json_and_say_what_the_graph_says(make):
    graph = make()
    reader = Reader(page(graph.pruned(1), known=graph, probability=float("nan")))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(reader.scripts[0], parse_constant=refuse)
    known = {tuple(patches): share for patches, share in data["known"]}
    for node in graph.nodes:
        expected = None if node.relative != node.relative else pytest.approx(node.relative)
        assert known.pop(node.patches) == expected
    assert not known
    assert [node["root"] for node in data["nodes"]].count(True) == len(graph.roots)
    assert "p = n/a" in reader.text


# ---------------------------------------------------------------------------------------------------------
# In a browser: the page in a frame of some width, a script that uses it from outside

HARNESS = """<!doctype html><meta charset="utf-8"><iframe id="f" width="{width}" height="900"></iframe>
<pre id="out"></pre><script>
const frame = document.getElementById("f"), errors = [], out = {{}};
frame.onload = () => setTimeout(() => {{
  const page = frame.contentWindow, doc = frame.contentDocument;
  const all = query => [...doc.querySelectorAll(query)], one = query => doc.querySelector(query);
  const press = (element, key) =>
    element.dispatchEvent(new page.KeyboardEvent("keydown", {{key, bubbles: true}}));
  const places = (query, test) => all(query).flatMap((element, at) => test(element) ? [at] : []);
  const verdicts = () => all(".verdict").map(v => v.className.replace("verdict ", "") + "|" + v.textContent);
  const seen = () => places(".node", node => page.getComputedStyle(node).display !== "none");
  const pixel = (x, y) => {{ const c = one("#photo canvas"), [w, h] = [c.width - 1, c.height - 1];
    return [...c.getContext("2d").getImageData(Math.round(x * w), Math.round(y * h), 1, 1).data]; }};
  try {{ {script} }} catch (error) {{ errors.push(String(error)); }}
  out.errors = errors.concat(page.problems);
  out.overflow = doc.documentElement.scrollWidth - doc.documentElement.clientWidth;
  document.getElementById("out").textContent = JSON.stringify(out);
}}, 300);
frame.srcdoc = {page};
</script>"""
WATCH = "<head><script>window.problems = []; onerror = text => problems.push(text);</script>"


@pytest.fixture
def use(tmp_path):
    """Open a page in Chromium, run a script on it, and return what the script put into `out`."""

    def run(text, script="", width=1200, *flags):
        watched = json.dumps(text.replace("<head>", WATCH, 1)).replace("<", "\\u003c")
        harness = tmp_path / "harness.html"
        harness.write_text(HARNESS.format(width=width, script=script, page=watched), encoding="utf-8")
        command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
        command += [*flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", harness.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stdout[-2000:]
        assert found[1], done.stderr[-2000:]
        out = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
        assert out["errors"] == []
        assert out["overflow"] <= 0
        return out

    return run


@in_browser
def test_hiding_patches_changes_the_verdicts(use):
    """usual(): explanations {0 1 4} at .95 and {1 4 8} at .92; {0 1} .6, {1 4} .5, {4 8} .3."""
    out = use(
        page(graphs.usual()),
        """
        const patches = all(".patch");
        out.patches = patches.length;
        out.start = verdicts();
        patches[8].click(); patches[8].click(); out.back = verdicts();
        patches[8].click(); out.without8 = verdicts(); out.summary = one("#summary").textContent;
        patches[1].click(); out.without18 = verdicts();
        patches[0].click(); patches[4].click(); out.without0148 = verdicts();
        out.pressed = patches.map(p => p.getAttribute("aria-pressed"));
        one("#show-all").click(); out.again = verdicts();
        one("#hide-all").click(); out.none = verdicts();
        """,
    )
    assert out["patches"] == 9
    holds = ["holds|holds: 95% of the score", "holds|holds: 92% of the score"]
    assert out["start"] == out["back"] == out["again"] == holds
    assert out["without8"] == [holds[0], "lost|1 patch hidden: only 50% left"]
    assert out["summary"] == "1 of 2 explanations still hold."
    assert out["without18"] == ["lost|1 patch hidden: only 10% left", "lost|2 patches hidden: only 2% left"]
    unknown = "unknown|3 patches hidden: what is left was not computed"
    assert out["without0148"] == out["none"] == [unknown] * 2
    assert out["pressed"] == [str(p in (0, 1, 4, 8)).lower() for p in range(9)]


@in_browser
def test_the_photo_shows_the_baseline_where_patches_are_hidden(use):
    rgb, hidden = graphs.pictures()
    out = use(
        page(graphs.usual()),
        """
        out.before = pixel(0, 0); all(".patch")[0].click();
        out.after = pixel(0, 0); out.far = pixel(1, 1);
        """,
    )
    assert out["before"][:3] == pytest.approx(rgb[0, 0].tolist(), abs=30)  # JPEG
    assert out["after"][:3] == pytest.approx(hidden[0, 0].tolist(), abs=6)
    assert out["far"][:3] == pytest.approx(rgb[-1, -1].tolist(), abs=30)


@in_browser
def test_everything_can_be_done_with_the_keyboard(use):
    out = use(
        page(graphs.usual()),
        """
        const patches = all(".patch"), at = () => patches.indexOf(doc.activeElement);
        out.stops = patches.filter(p => p.tabIndex === 0).length;
        patches[0].focus(); out.way = [];
        for (const key of ["ArrowLeft", "ArrowRight", "ArrowDown", "End", "ArrowRight", "ArrowUp", "Home"]) {
          press(doc.activeElement, key); out.way.push(at()); }
        out.names = patches.map(p => p.getAttribute("aria-label"));
        const node = all(".node")[3];
        node.focus(); press(node, "Enter");
        out.shown = places(".patch", p => p.getAttribute("aria-pressed") === "false");
        out.label = node.getAttribute("aria-label"); out.stop = node.getAttribute("tabindex");
        """,
    )
    node = graphs.usual().nodes[3]
    assert out["stops"] == 1  # one tab stop, then arrows
    assert out["way"] == [0, 1, 4, 5, 5, 2, 0]
    assert out["names"][5] == "patch P5, row 2, column 3, shown"
    assert out["shown"] == list(node.patches)
    assert (out["label"], out["stop"]) == ("P1 P4, 50% of the score; show only these patches", "0")


@in_browser
def test_roots_can_be_switched_off_and_pointing_outlines_patches(use):
    graph = graphs.usual()
    out = use(
        page(graph),
        """
        const boxes = all("#roots input");
        out.start = seen(); boxes[0].click(); out.second = seen(); boxes[1].click(); out.none = seen();
        boxes[0].click(); out.first = seen(); boxes[1].click();
        const lit = () => places(".patch", p => p.classList.contains("lit"));
        const node = all(".node")[2];
        node.dispatchEvent(new page.MouseEvent("mouseenter")); out.lit = lit();
        out.near = places(".node", n => n.classList.contains("near"));
        node.dispatchEvent(new page.MouseEvent("mouseleave")); out.dark = lit();
        """,
    )

    def below(root):
        return [at for at, node in enumerate(graph.nodes) if set(node.patches) <= set(root.patches)]

    first, second = graph.roots
    assert out["start"] == list(range(len(graph.nodes)))
    assert out["first"] == below(first)
    assert out["second"] == below(second)
    assert out["none"] == []
    assert out["lit"] == list(graph.nodes[2].patches)
    assert out["dark"] == []
    line = [
        at
        for at, node in enumerate(graph.nodes)
        if set(node.patches) <= {0, 1} or set(node.patches) >= {0, 1}
    ]
    assert out["near"] == line


@in_browser
@pytest.mark.parametrize("make", [graphs.usual, graphs.of_no_patch, graphs.with_nan, graphs.empty])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_a_phone_and_a_desk(use, make, width):
    long_word = "explanation" * 20
    out = use(
        page(make(), label=long_word, title=long_word, facts=[("photo", long_word)]),
        """
        all(".patch")[4].click(); out.verdicts = verdicts(); out.summary = one("#summary").textContent;
        out.photo = one("#photo").getBoundingClientRect().width;
        """,
        width,
    )
    assert out["photo"] > 240  # patches large enough for a finger
    if make is graphs.empty:
        assert out["summary"] == "No sufficient set was found."
    if make is graphs.of_no_patch:
        assert out["verdicts"] == ["holds|holds: 95% of the score"]
    if make is graphs.with_nan:
        assert out["verdicts"] == ["unknown|1 patch hidden: the score of what is left is not finite"]


@in_browser
def test_nasty_text_runs_nowhere(use):
    out = use(
        page(graphs.usual(), label=NASTY, title=NASTY, facts=[(NASTY, NASTY)]),
        "out.title = doc.title; out.heading = one('h1').textContent;",
    )
    assert out["title"] == NASTY
    assert escape(out["heading"]).startswith(escape("Why " + NASTY))
