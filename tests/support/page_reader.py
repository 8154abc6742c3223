"""Pages read strictly, and looked at in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

VOID = {"meta", "img", "br", "link", "input"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "</script><script>document.title='broken'</script><b onload='x'>$a ${b} {{ c }} &amp;\"'"
DARK = ("--blink-settings=preferredColorScheme=0",)


def in_browser(test):
    """Mark a test that needs Chromium, which takes some seconds per page."""
    needs = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian's package chromium)")
    return pytest.mark.slow(needs(test))


class PageReader(HTMLParser):
    """A page, read strictly: every element is closed, in order; no attribute comes twice."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.images, self.ids, self.headings = [], [], [], [], [], []
        self.classes, self.attributes, self.scripts, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes), (tag, attributes)
        self.tags.append(tag)
        self.scripts += [""] * (tag == "script")
        self.open += [tag] * (tag not in VOID)
        self.addresses += [found[name] for name in ("src", "href", "action", "xlink:href") if name in found]
        self.images += [found] * (tag == "img")
        self.ids += [found["id"]] if "id" in found else []
        self.classes += found.get("class", "").split()
        self.attributes.append((tag, found))
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
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text += data


def assert_self_contained(text):
    """A page needs no other file: addresses are pictures inside it or places on it."""
    page = PageReader(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert not re.search(r"(?:https?:)?//[a-z]|url\(|@import", text.replace("http://www.w3.org/2000/svg", ""))
    assert len(page.ids) == len(set(page.ids))
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert page.headings[:1] == [1]
    return page


HARNESS = """<!doctype html><meta charset="utf-8"><iframe id="f" width="{width}" height="900"></iframe>
<pre id="out"></pre><script>
const frame = document.getElementById("f"), errors = [], out = {{}};
frame.onload = () => setTimeout(() => {{
  const page = frame.contentWindow, doc = frame.contentDocument;
  const all = query => [...doc.querySelectorAll(query)], one = query => doc.querySelector(query);
  const press = (element, key) =>
    element.dispatchEvent(new page.KeyboardEvent("keydown", {{key, bubbles: true}}));
  const places = (query, test) => all(query).flatMap((element, index) => test(element) ? [index] : []);
  const style = element => page.getComputedStyle(element);
  try {{ {script} }} catch (error) {{ errors.push(String(error)); }}
  out.errors = errors.concat(page.problems);
  out.overflow = doc.documentElement.scrollWidth - doc.documentElement.clientWidth;
  out.title = doc.title;
  document.getElementById("out").textContent = JSON.stringify(out);
}}, 300);
frame.srcdoc = {page};
</script>"""
WATCH = "<head><script>window.problems = []; onerror = text => problems.push(text);</script>"


def use_page(folder, text, script="", width=1200, flags=()):
    """Open a page in Chromium, run a script on it, and return what the script put into `out`."""
    watched = json.dumps(text.replace("<head>", WATCH, 1)).replace("<", "\\u003c")
    harness = folder / "harness.html"
    harness.write_text(HARNESS.format(width=width, script=script, page=watched), encoding="utf-8")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
    command += [*flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", harness.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    assert found[1], done.stderr[-2000:]
    out = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert out["errors"] == []
    assert out["overflow"] <= 0
    return out


def luminance(color):
    levels = [int(level) / 255 for level in re.findall(r"\d+", color)[:3]]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def assert_readable(page_color, colors):
    """Every color has the contrast to the page that WCAG AA asks for."""
    page = luminance(page_color)
    for color in colors:
        low, high = sorted([page, luminance(color)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, color
