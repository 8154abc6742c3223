"""Drawings of attention graphs: layout, SVG, PNG, and the photo with patches hidden."""

import re
import shutil
import subprocess
from collections import Counter
from itertools import combinations
from xml.etree import ElementTree

import graphs
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxplain import render
from jaxplain.render.graph import layout, outlines
from jaxplain.render.graph.style import EMPTY, ROOT_COLOR
from jaxplain.sag.patches import Scene, show

NODE, GAP = (100.0, 80.0), (20.0, 40.0)
SVG = "{http://www.w3.org/2000/svg}"
ENGINES = [
    "plain",
    pytest.param("dot", marks=pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is missing")),
]
DRAWN = {"usual": graphs.usual, "of no patch": graphs.of_no_patch, "with NaN": graphs.with_nan}


def random_graph(seed):
    random = np.random.default_rng(seed)
    sets, front = [], [frozenset(random.choice(9, 5, replace=False).tolist()) for _ in range(3)]
    for _ in range(4):
        sets += front
        front = [s - {p} for s in front for p in s if random.random() < 0.4]
    return graphs.attention_graph(*dict.fromkeys(sets), roots=(0, 1, 2))


# ---------------------------------------------------------------------------------------------------------
# Layout


def crossings(graph, centers):
    """Pairs of edges between the same rows whose ends lie in opposite order."""
    ends = [(graph.nodes[e.parent].level, centers[e.parent][0], centers[e.child][0]) for e in graph.edges]
    return sum(a[0] == b[0] and (a[1] - b[1]) * (a[2] - b[2]) < -1e-6 for a, b in combinations(ends, 2))


def assert_tidy(graph, found, node, gap):
    """A row a level, the smaller sets below; nothing overlaps or lies outside."""
    for (one, (x, y)), (other, (x2, y2)) in combinations(zip(graph.nodes, found.centers, strict=True), 2):
        if one.level == other.level:
            assert y == pytest.approx(y2, abs=0.1)
            assert abs(x - x2) >= node[0] + gap[0] - 0.1
        else:
            assert (y2 - y) * (other.level - one.level) > 0
            assert abs(y2 - y) >= node[1] + gap[1] - 0.1
    for x, y in found.centers:
        assert node[0] / 2 - 0.1 <= x <= found.width - node[0] / 2 + 0.1
        assert node[1] / 2 - 0.1 <= y <= found.height - node[1] / 2 + 0.1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_a_level_is_a_row_and_nothing_overlaps(make, engine):
    graph = make()
    found = layout(graph, NODE, GAP, engine)
    assert found.engine == engine
    assert_tidy(graph, found, NODE, GAP)
    assert found == layout(graph, NODE, GAP, engine)


@given(st.integers(0, 10**6))
def test_any_graph_is_tidy_without_graphviz(seed):
    graph = random_graph(seed)
    found = layout(graph, NODE, GAP, "plain")
    assert_tidy(graph, found, NODE, GAP)
    seen = Counter()
    untouched = []  # in the order of the nodes
    for node in graph.nodes:
        untouched.append((seen[node.level], 0))
        seen[node.level] += 1
    assert crossings(graph, found.centers) <= crossings(graph, untouched)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_edges_of_a_tree_do_not_cross(engine):
    tree = graphs.attention_graph(
        {0, 1, 2}, {5, 6, 7}, {1, 2}, {6, 7}, {0, 1}, {5, 7}, {2}, {7}, {0}, roots=(0, 1)
    )
    shared = [e for e in tree.edges if sum(e.child == other.child for other in tree.edges) > 1]
    tree = graphs.replace_edges(tree, [e for e in tree.edges if e not in shared[1:]])
    assert crossings(tree, layout(tree, NODE, GAP, engine).centers) == 0


def test_without_graphviz_the_plain_layout_is_taken(monkeypatch):
    monkeypatch.setenv("PATH", "")
    graph = graphs.usual()
    assert layout(graph, NODE, GAP) == layout(graph, NODE, GAP, "plain")
    with pytest.raises(RuntimeError, match="dot is not installed"):
        layout(graph, NODE, GAP, "dot")


def fails(*args, **kwargs):
    raise subprocess.TimeoutExpired("dot", 1)


def places_nothing(*args, **kwargs):
    return subprocess.CompletedProcess("dot", 0, stdout="graph 1 2 3\nstop\n")


@pytest.mark.parametrize("broken", [fails, places_nothing])
def test_a_graphviz_that_fails_does_not_stop_the_drawing(monkeypatch, broken):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", broken)
    graph = graphs.usual()
    assert layout(graph, NODE, GAP).engine == "plain"
    with pytest.raises(RuntimeError, match="dot failed"):
        layout(graph, NODE, GAP, "dot")


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine must be"):
        layout(graphs.usual(), NODE, GAP, "neato")


# ---------------------------------------------------------------------------------------------------------
# The photo


@given(st.integers(1, 6), st.integers(1, 6))
def test_outlines_tile_the_photo(rows, cols):
    boxes = outlines((rows, cols))
    assert len(boxes) == rows * cols
    assert sum((b.right - b.left) * (b.bottom - b.top) for b in boxes) == pytest.approx(1)
    for one, two in combinations(boxes, 2):
        wide = min(one.right, two.right) - max(one.left, two.left)
        high = min(one.bottom, two.bottom) - max(one.top, two.top)
        assert min(wide, high) <= 1e-9


@pytest.mark.parametrize("grid", [(3, 4), (1, 1), (5, 2), (1, 3)])
@pytest.mark.parametrize("patches", [(), (0,), (0, 2), "all"])
def test_the_masked_photo_is_what_the_model_sees(grid, patches):
    rgb, hidden = graphs.pictures()
    count = grid[0] * grid[1]
    chosen = tuple(range(count)) if patches == "all" else tuple(p for p in patches if p < count)
    sets = jnp.zeros(count, bool).at[jnp.array(chosen, int)].set(True)
    seen = show(Scene(jnp.asarray(rgb, jnp.float32), jnp.asarray(hidden, jnp.float32)), sets, grid)
    drawn = render.masked_photo(rgb, hidden, chosen, grid)
    np.testing.assert_allclose(drawn, np.asarray(seen), atol=0.51)


def test_outlines_lie_where_a_patch_is_seen_most():
    rgb, hidden = np.full((60, 80, 3), 255, np.uint8), np.zeros((60, 80, 3), np.uint8)
    for patch, box in enumerate(outlines((3, 4))):
        light = render.masked_photo(rgb, hidden, (patch,), (3, 4))[..., 0] / 255
        inside = light[
            round(60 * box.top) : round(60 * box.bottom), round(80 * box.left) : round(80 * box.right)
        ]
        assert inside.min() >= 0.24  # a corner of a patch belongs to four
        assert inside.mean() > 0.5


def test_pictures_that_do_not_fit_are_refused():
    rgb, hidden = graphs.pictures()
    for draw in (render.graph_svg, render.graph_png):
        with pytest.raises(ValueError, match="shape"):
            draw(graphs.usual(), rgb, hidden[:-1])


# ---------------------------------------------------------------------------------------------------------
# SVG


def parsed(graph, **options):
    return ElementTree.fromstring(render.graph_svg(graph, *graphs.pictures(), **options))


def of_class(tree, tag, name):
    return [one for one in tree.iter(SVG + tag) if name in one.get("class", "").split()]


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_the_svg_shows_every_node_and_edge(make):
    graph = make()
    tree = parsed(graph)
    nodes = of_class(tree, "g", "node")
    assert [int(node.get("data-node")) for node in nodes] == list(range(len(graph.nodes)))
    assert [int(node.get("data-node")) for node in of_class(tree, "g", "root")] == [
        at for at, node in enumerate(graph.nodes) if node.is_root
    ]
    for shown, node in zip(nodes, graph.nodes, strict=True):
        text = shown.findall(SVG + "text")[0].text
        assert text == ("n/a" if np.isnan(node.relative) else f"{100 * node.relative:.0f}%")
    ends = {(int(e.get("data-parent")), int(e.get("data-child"))) for e in of_class(tree, "path", "edge")}
    assert ends == {(edge.parent, edge.child) for edge in graph.edges}
    removed = [text.text for text in of_class(tree, "text", "removed")]
    assert removed == [f"-P{edge.patch}" for edge in graph.edges]


def test_an_edge_is_thicker_and_redder_the_more_it_costs():
    graph = graphs.usual()
    paths = of_class(parsed(graph), "path", "edge")
    by_drop = sorted(range(len(paths)), key=lambda at: graph.edges[at].drop)
    widths = [float(paths[at].get("stroke-width")) for at in by_drop]
    reds = [int(re.findall(r"\d+", paths[at].get("stroke"))[2]) for at in by_drop]  # blue fades
    assert widths == sorted(widths)
    assert widths[-1] > 2 * widths[0]
    assert reds == sorted(reds, reverse=True)
    assert reds[-1] < reds[0]


def test_a_graph_of_nothing_says_so():
    assert EMPTY in "".join(parsed(graphs.empty()).itertext())
    assert "no patch" in "".join(parsed(graphs.of_no_patch()).itertext())


def test_a_label_is_text():
    label = "<b>&'\"]]>"
    assert label in "".join(parsed(graphs.usual(), label=label).itertext())


# ---------------------------------------------------------------------------------------------------------
# PNG


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_the_png_has_a_framed_thumbnail_for_every_root(make):
    graph = make()
    picture = np.asarray(render.graph_png(graph, *graphs.pictures(), label="x", engine="plain")).astype(int)
    frame = (np.abs(picture - ROOT_COLOR).max(-1) < 30).sum()
    assert frame > 500 * len(graph.roots)
    border = np.concatenate([*picture[[0, -1]], *picture[:, [0, -1]].swapaxes(0, 1)])
    assert (border == 255).all()  # nothing is cut off


def test_the_png_of_nothing_says_so_without_a_frame():
    picture = np.asarray(render.graph_png(graphs.empty(), *graphs.pictures())).astype(int)
    assert not (np.abs(picture - ROOT_COLOR).max(-1) < 30).any()
    assert (picture[:60, 300:] < 128).any()


def test_a_label_that_is_too_long_or_has_no_letters_is_drawn():
    for label in ("w" * 400, "日本語", ""):
        render.graph_png(graphs.usual(), *graphs.pictures(), label=label)


# ---------------------------------------------------------------------------------------------------------
# The curve of the statistics


def test_the_shares_are_drawn_at_their_height():
    """One line at 1 and one at 0: their colours lie at the top and the bottom of the plot."""
    picture = render.draw_shares({"one": [1.0, 1.0, 1.0], "none": [0.0, 0.0, 0.0]}).astype(int)
    rows = {}
    for name, color in {"one": (0, 114, 178), "none": (213, 94, 0)}.items():
        place = np.argwhere(np.abs(picture[45:, 120:] - color).max(-1) < 40)
        rows[name] = place[:, 0].mean()
        assert np.ptp(place[:, 1]) > 300
    assert rows["none"] - rows["one"] > 250


def test_a_longer_legend_takes_more_room():
    shares = {str(number): np.linspace(0, 1, 5) for number in range(8)}
    assert render.draw_shares(shares).shape[0] - render.draw_shares({"0": shares["0"]}).shape[0] == 7 * 22


@pytest.mark.parametrize(
    ("shares", "size", "told"),
    [
        ({}, (560, 400), "at least one line"),
        ({"a": [0.0, 1.0], "b": [0.0]}, (560, 400), "one length"),
        ({"a": 1.0}, (560, 400), "one length"),
        ({"a": [0.0, 1.0]}, (20, 400), "260 x 180"),
    ],
)
def test_shares_that_cannot_be_drawn_are_refused(shares, size, told):
    with pytest.raises(ValueError, match=told):
        render.draw_shares(shares, size)
