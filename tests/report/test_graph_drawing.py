"""Drawings of attention graphs: layout, SVG, PNG, and the photo with patches hidden."""

import io
import re
import shutil
import subprocess
from collections import Counter
from itertools import combinations
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image
from support import drawn_graphs
from support.page_reader import NASTY

from jaxplain.report import graphs
from jaxplain.report.layout import layout
from jaxplain.sag.patches import Scene, show

NODE, GAP = (100.0, 80.0), (20.0, 40.0)
SVG = "{http://www.w3.org/2000/svg}"
ENGINES = [
    "plain",
    pytest.param(
        "dot",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not shutil.which("dot"), reason="needs Graphviz's program dot"),
        ],
    ),
]
DRAWN = {
    "usual": drawn_graphs.usual,
    "of no patch": drawn_graphs.of_no_patch,
    "with NaN": drawn_graphs.with_nan,
}


def random_graph(seed):
    random = np.random.default_rng(seed)
    sets, front = [], [frozenset(random.choice(9, 5, replace=False).tolist()) for _ in range(3)]
    for _ in range(4):
        sets += front
        front = [s - {p} for s in front for p in s if random.random() < 0.4]
    return drawn_graphs.attention_graph(*dict.fromkeys(sets), explanations=(0, 1, 2))


# ---------------------------------------------------------------------------------------------------------
# Layout


def crossings(graph, centers):
    """Pairs of edges between the same rows whose ends lie in opposite order."""
    ends = [(graph.nodes[e.parent].level, centers[e.parent][0], centers[e.child][0]) for e in graph.edges]
    return sum(a[0] == b[0] and (a[1] - b[1]) * (a[2] - b[2]) < -1e-6 for a, b in combinations(ends, 2))


def assert_tidy(graph, found, node, gap):
    """One row per level, the smaller sets below; nothing overlaps or lies outside."""
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
    tree = drawn_graphs.attention_graph(
        {0, 1, 2}, {5, 6, 7}, {1, 2}, {6, 7}, {0, 1}, {5, 7}, {2}, {7}, {0}, explanations=(0, 1)
    )
    shared = [e for e in tree.edges if sum(e.child == other.child for other in tree.edges) > 1]
    tree = drawn_graphs.replace_edges(tree, [e for e in tree.edges if e not in shared[1:]])
    assert crossings(tree, layout(tree, NODE, GAP, engine).centers) == 0


def test_without_graphviz_the_plain_layout_is_taken(monkeypatch):
    monkeypatch.setenv("PATH", "")
    graph = drawn_graphs.usual()
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
    graph = drawn_graphs.usual()
    assert layout(graph, NODE, GAP).engine == "plain"
    with pytest.raises(RuntimeError, match="dot failed"):
        layout(graph, NODE, GAP, "dot")


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="unknown engine"):
        layout(drawn_graphs.usual(), NODE, GAP, "neato")


# ---------------------------------------------------------------------------------------------------------
# The photo


@given(st.integers(1, 6), st.integers(1, 6))
def test_outlines_tile_the_photo(rows, cols):
    boxes = graphs.outlines((rows, cols))
    assert len(boxes) == rows * cols
    assert sum((b.right - b.left) * (b.bottom - b.top) for b in boxes) == pytest.approx(1)
    for one, two in combinations(boxes, 2):
        wide = min(one.right, two.right) - max(one.left, two.left)
        high = min(one.bottom, two.bottom) - max(one.top, two.top)
        assert min(wide, high) <= 1e-9


@pytest.mark.parametrize("grid", [(3, 4), (1, 1), (5, 2), (1, 3)])
@pytest.mark.parametrize("patches", [(), (0,), (0, 2), "all"])
def test_the_masked_photo_is_what_the_model_sees(grid, patches):
    rgb, hidden = drawn_graphs.pictures()
    count = grid[0] * grid[1]
    chosen = tuple(range(count)) if patches == "all" else tuple(p for p in patches if p < count)
    sets = jnp.zeros(count, bool).at[jnp.array(chosen, int)].set(True)
    seen = show(Scene(jnp.asarray(rgb, jnp.float32), jnp.asarray(hidden, jnp.float32)), sets, grid)
    drawn = graphs.masked_photo(rgb, hidden, chosen, grid)
    np.testing.assert_allclose(drawn, np.asarray(seen), atol=0.51)


def test_outlines_lie_where_a_patch_is_seen_most():
    rgb, hidden = np.full((60, 80, 3), 255, np.uint8), np.zeros((60, 80, 3), np.uint8)
    for patch, box in enumerate(graphs.outlines((3, 4))):
        light = graphs.masked_photo(rgb, hidden, (patch,), (3, 4))[..., 0] / 255
        inside = light[
            round(60 * box.top) : round(60 * box.bottom), round(80 * box.left) : round(80 * box.right)
        ]
        assert inside.min() >= 0.24  # a corner of a patch belongs to four
        assert inside.mean() > 0.5


def test_pictures_that_do_not_fit_are_refused():
    rgb, hidden = drawn_graphs.pictures()
    for draw in (graphs.graph_svg, graphs.graph_png):
        with pytest.raises(ValueError, match="shape"):
            draw(drawn_graphs.usual(), rgb, hidden[:-1])


# ---------------------------------------------------------------------------------------------------------
# SVG


def parsed(graph, **options):
    return ElementTree.fromstring(graphs.graph_svg(graph, *drawn_graphs.pictures(), **options))


def of_class(tree, tag, name):
    return [one for one in tree.iter(SVG + tag) if name in one.get("class", "").split()]


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_the_svg_shows_every_node_and_edge(make):
    graph = make()
    tree = parsed(graph)
    nodes = of_class(tree, "g", "node")
    assert [int(node.get("data-node")) for node in nodes] == list(range(len(graph.nodes)))
    assert [int(node.get("data-node")) for node in of_class(tree, "g", "explanation")] == [
        index for index, node in enumerate(graph.nodes) if node.is_explanation
    ]
    for shown, node in zip(nodes, graph.nodes, strict=True):
        text = shown.findall(SVG + "text")[0].text
        assert text == ("n/a" if np.isnan(node.relative) else f"{100 * node.relative:.0f}%")
    ends = {(int(e.get("data-parent")), int(e.get("data-child"))) for e in of_class(tree, "path", "edge")}
    assert ends == {(edge.parent, edge.child) for edge in graph.edges}
    removed = [text.text for text in of_class(tree, "text", "removed")]
    assert removed == [f"-P{edge.patch}" for edge in graph.edges]


def test_an_edge_is_thicker_and_redder_the_more_it_costs():
    graph = drawn_graphs.usual()
    paths = of_class(parsed(graph), "path", "edge")
    by_drop = sorted(range(len(paths)), key=lambda at: graph.edges[at].drop)
    widths = [float(paths[at].get("stroke-width")) for at in by_drop]
    blues = [round(255 * to_rgb(paths[at].get("stroke"))[2]) for at in by_drop]
    assert widths == sorted(widths)
    assert widths[-1] > 2 * widths[0]
    assert blues == sorted(blues, reverse=True)
    assert blues[-1] < blues[0]


def test_a_graph_of_nothing_says_so():
    assert graphs.EMPTY in "".join(parsed(drawn_graphs.empty()).itertext())
    assert "no patch" in "".join(parsed(drawn_graphs.of_no_patch()).itertext())


def test_a_label_is_text():
    tree = parsed(drawn_graphs.usual(), label=NASTY)
    assert "".join(tree.itertext()).count(NASTY) == 2  # the title and below the photo
    assert not [one for one in tree.iter() if one.tag.endswith("script")]


@given(st.sets(st.integers(0, 11)))
def test_borders_are_where_the_visible_patches_end(patches):
    """Each line has a visible patch on one side and a hidden one on the other, and none is missing."""
    boxes, length = graphs.outlines((3, 4)), 0.0
    for (x1, y1), (x2, y2) in graphs.borders(patches, (3, 4)):
        touching = {
            patch
            for patch, box in enumerate(boxes)
            if box.left <= min(x1, x2) + 1e-9
            and box.right >= max(x1, x2) - 1e-9
            and box.top <= min(y1, y2) + 1e-9
            and box.bottom >= max(y1, y2) - 1e-9
        }
        assert len(touching) == 2
        assert len(touching & patches) == 1
        length += abs(x2 - x1) + abs(y2 - y1)
    shown = np.isin(np.arange(12), list(patches)).reshape(3, 4)
    heights, widths = np.diff([0, 0.25, 0.75, 1]), np.diff([0, 1 / 6, 0.5, 5 / 6, 1])
    expected = ((shown[:, 1:] != shown[:, :-1]) * heights[:, None]).sum()
    expected += ((shown[1:] != shown[:-1]) * widths).sum()
    assert length == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------------
# PNG


def png(graph, **options):
    return np.asarray(Image.open(io.BytesIO(graphs.graph_png(graph, *drawn_graphs.pictures(), **options))))


def of_color(picture, color):
    return np.abs(picture[..., :3] - 255 * np.array(to_rgb(color))).max(-1) < 30


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_the_png_frames_every_explanation_and_is_not_cut_off(make):
    graph = make()
    picture = png(graph, label="w" * 400, engine="plain")
    assert of_color(picture, graphs.EXPLANATION_COLOR).sum() > 1000 * len(graph.explanations)
    border = np.concatenate([*picture[[0, -1]], *picture[:, [0, -1]].swapaxes(0, 1)])
    assert (border == 255).all()


def test_the_png_of_nothing_says_so_without_a_frame():
    picture = png(drawn_graphs.empty(), label="日本語")
    assert not of_color(picture, graphs.EXPLANATION_COLOR).any()
    assert (picture[:120, 530:, :3] < 128).any()


def test_png_and_svg_show_the_same_drawing():
    """With one color per picture, the nodes' positions can be told apart from everything else."""
    graph = drawn_graphs.usual()
    pixels, hidden = (np.full((60, 80, 3), color, np.uint8) for color in ((0, 255, 0), (255, 0, 255)))
    drawing = graphs.draw(graph, pixels, hidden, "plain")
    picture = np.asarray(Image.open(io.BytesIO(graphs.graph_png(graph, pixels, hidden, engine="plain"))))
    tree = ElementTree.fromstring(graphs.graph_svg(graph, pixels, hidden, engine="plain"))
    origin = [float(number) for number in re.findall(r"[\d.]+", tree.findall(SVG + "g")[-1].get("transform"))]
    places = [one.get("transform") for one in of_class(tree, "g", "node")]
    for place, node in zip(places, drawing.nodes, strict=True):
        corner = [float(number) for number in re.findall(r"[\d.]+", place)]
        assert corner == pytest.approx([node.left, node.top], abs=0.06)
        inside = [
            2 * (origin[0] + corner[0] + drawing.frame + 3),
            2 * (origin[1] + corner[1] + drawing.frame + 3),
        ]
        shown = picture[round(inside[1]), round(inside[0]), :3]
        assert np.abs(shown.astype(int) - node.picture[6, 6]).max() <= 12
