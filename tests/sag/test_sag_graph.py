"""Graphs, diverse subsets, statistics and counterfactuals, against brute force and by hand."""

import json
import math
import time
from dataclasses import replace
from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import slow_sag
from support.patch_scores import Table, as_sets, monotone_table, random_table, scene_of, search

import jaxplain as jx
from jaxplain.sag import AttentionGraph, Edge, Node, SearchHistory, Summary

seeds = st.integers(0, 10**6)


def result_of(sets, scores=None, patches=12, grid=(3, 4)):
    """Explanations made by hand, with two unused rows."""
    rows = np.zeros((len(sets) + 2, patches), bool)
    for row, s in zip(rows, sets, strict=False):
        row[list(s)] = True
    values = np.full(len(rows), np.nan, np.float32)
    values[: len(sets)] = 1.0 if scores is None else scores
    valid = np.arange(len(rows)) < len(sets)
    one = jnp.float32(1)
    nothing = jnp.zeros(1)
    return jx.sag.SearchResult(
        explanations=jnp.asarray(rows), scores=jnp.asarray(values), relative=jnp.asarray(values),
        sizes=jnp.asarray(rows.sum(1), jnp.int32), valid=jnp.asarray(valid), image_score=one,
        baseline_score=0 * one, threshold=0.9 * one, levels=jnp.int32(3), evaluations=jnp.int32(9),
        status=jnp.int32(0), history=SearchHistory(nothing, nothing, nothing, nothing), grid=grid,
    )  # fmt: skip


# --- diverse subsets


def best_subset(sets, scores, overlap):
    """The size and the total score of the best subset, by trying all."""
    for size in range(len(sets), 0, -1):
        totals = [
            sum(scores[at] for at in chosen)
            for chosen in combinations(range(len(sets)), size)
            if all(len(sets[a] & sets[b]) <= overlap for a, b in combinations(chosen, 2))
        ]
        if totals:
            return size, max(totals)
    return 0, 0.0


@given(seeds, st.integers(0, 2))
def test_the_diverse_subset_is_the_largest_of_highest_score(seed, overlap):
    random = np.random.default_rng(seed)
    drawn = {frozenset(random.choice(12, random.integers(1, 6), replace=False).tolist()) for _ in range(11)}
    sets = sorted(drawn, key=sorted)
    scores = np.round(random.uniform(0.9, 1.2, len(sets)), 2).astype(np.float32)
    found = jx.sag.diverse_subset(result_of(sets, scores), overlap)
    size, total = best_subset(sets, scores, overlap)
    chosen = as_sets(found.result)
    assert found.exact
    assert len(chosen) == size == found.chosen.sum()
    assert all(len(a & b) <= overlap for a, b in combinations(chosen, 2))
    np.testing.assert_allclose(np.asarray(found.result.scores)[found.chosen].sum(), total, rtol=1e-5)


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_two_hundred_explanations_are_exact_or_marked(overlap):
    random = np.random.default_rng(overlap)
    sets = list(
        {frozenset(random.choice(49, random.integers(3, 9), replace=False).tolist()) for _ in range(200)}
    )
    start = time.monotonic()
    found = jx.sag.diverse_subset(result_of(sets, patches=49, grid=(7, 7)), overlap, time_limit=5)
    assert all(len(a & b) <= overlap for a, b in combinations(as_sets(found.result), 2))
    assert len(as_sets(found.result)) > 3
    assert found.exact or time.monotonic() - start > 4  # only a lack of time excuses


def test_a_diverse_subset_without_time_is_marked():
    random = np.random.default_rng(0)
    sets = list({frozenset(random.choice(49, 6, replace=False).tolist()) for _ in range(300)})
    found = jx.sag.diverse_subset(result_of(sets, patches=49, grid=(7, 7)), 1, time_limit=0.01)
    assert not found.exact
    chosen = as_sets(found.result)
    assert len(chosen) > 0
    assert all(len(a & b) <= 1 for a, b in combinations(chosen, 2))


def test_diverse_subsets_at_the_edges():
    assert len(jx.sag.diverse_subset(result_of([])).result) == 0
    assert len(jx.sag.diverse_subset(result_of([{1}])).result) == 1
    assert as_sets(jx.sag.diverse_subset(result_of([set()])).result) == [frozenset()]
    for wrong, error, message in ((-1, ValueError, "at least 0"), (1.5, TypeError, "an integer")):
        with pytest.raises(error, match=message):
            jx.sag.diverse_subset(result_of([{1}]), wrong)


# --- graphs

OPTIONS = {"grid": (3, 3), "beam_width": 12, "max_explanations": 12, "threshold": 0.7}


def slow_graph(score, explanations, above):
    """Nodes and edges by recursion."""
    nodes, edges = set(explanations), set()

    def expand(s):
        for patch in s if score(s) > above else ():
            edges.add((s, patch))
            if s - {patch} not in nodes:
                nodes.add(s - {patch})
                expand(s - {patch})

    for s in explanations:
        expand(s)
    return nodes, edges


def sets_of(graph):
    return [frozenset(node.patches) for node in graph.nodes]


@given(seeds, st.sampled_from([0.0, 0.4, 0.8]), st.booleans())
@settings(max_examples=12)
def test_a_graph_against_recursion(seed, above, monotone):
    table = monotone_table(seed) if monotone else random_table(seed)
    result = search(table, **OPTIONS)
    image, baseline = scene_of((3, 3))
    graph = jx.sag.graph(table, image, baseline, result, expand_above=above)
    whole = float(result.image_score)
    nodes, edges = slow_graph(lambda s: float(table.of(s)), as_sets(result), above * whole)
    found = sets_of(graph)
    assert set(found) == nodes
    assert len(set(found)) == len(found)  # equal sets are one node
    assert {(found[edge.parent], edge.patch) for edge in graph.edges} == edges
    for edge in graph.edges:
        assert found[edge.child] == found[edge.parent] - {edge.patch}
        assert graph.nodes[edge.child].level == graph.nodes[edge.parent].level + 1
        assert edge.drop == graph.nodes[edge.parent].score - graph.nodes[edge.child].score
    for node, s in zip(graph.nodes, found, strict=True):
        assert node.score == pytest.approx(float(table.of(s)), rel=1e-6)
        assert node.relative == pytest.approx(node.score / whole)
        assert node.is_explanation == (s in as_sets(result))
    assert [node.level for node in graph.nodes] == sorted(node.level for node in graph.nodes)
    assert AttentionGraph.from_json(graph.to_json()) == graph


@given(seeds, st.integers(1, 3))
@settings(max_examples=12)
def test_few_children_are_those_of_largest_drop(seed, most):
    """Grown with few children or pruned afterwards, and never cut off from an explanation."""
    table = monotone_table(seed, levels=1000)
    result = search(table, **OPTIONS)
    image, baseline = scene_of((3, 3))
    full = jx.sag.graph(table, image, baseline, result)
    small = jx.sag.graph(table, image, baseline, result, max_children=most)
    assert small == full.pruned(most)
    drops = {}
    for edge in full.edges:
        drops.setdefault(full.nodes[edge.parent].patches, []).append(edge.drop)
    for at, node in enumerate(small.nodes):
        kept = [edge.drop for edge in small.edges if edge.parent == at]
        assert sorted(kept) == sorted(drops.get(node.patches, []))[-most:]
    assert small.explanations == full.explanations


def corner_graph(**options):
    """P1 and P3 convince together, P0 alone; P1 alone keeps five eighths."""
    values = np.zeros(16, np.float32)
    for number in range(16):
        values[number] = max(number & 1, 0.625 * (number >> 1 & 1) + 0.3125 * (number >> 3 & 1))
    table = Table(jnp.asarray(values))
    result = search(table, (2, 2))
    return jx.sag.graph(table, *scene_of((2, 2)), result, **options)


def test_a_graph_by_hand():
    graph = corner_graph()
    assert graph.logic_form() == "(P1 & P3) | (P0)"
    assert [node.patches for node in graph.nodes] == [(1, 3), (0,), (1,), (3,), ()]
    assert [node.level for node in graph.nodes] == [0, 1, 1, 1, 2]
    assert [node.relative for node in graph.nodes] == [0.9375, 1.0, 0.625, 0.3125, 0.0]
    assert [(edge.parent, edge.child, edge.patch) for edge in graph.edges] == [
        (0, 3, 1), (0, 2, 3), (1, 4, 0), (2, 4, 1),
    ]  # fmt: skip  # P3 alone is not expanded
    assert graph.find([3, 1]) is graph.nodes[0]
    assert graph.find([2]) is None


def test_the_forms_of_a_graph():
    graph = corner_graph()
    dot = graph.to_dot()
    assert dot.startswith("digraph")
    assert dot.count("->") == 4
    assert "P1 P3" in dot
    assert 'label="-P3"' in dot or "label=-P3" in dot or "-P3" in dot
    networkx = pytest.importorskip("networkx")
    other = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(other)
    assert other.nodes[(1, 3)]["is_explanation"]
    assert other.edges[(1, 3), (1,)]["patch"] == 3


def test_graphs_of_the_first_format_are_read():
    graph = corner_graph()
    text = graph.to_json().replace("graph 2", "graph 1").replace("is_explanation", "is_root")
    assert "is_root" in text
    assert AttentionGraph.from_json(text) == graph


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "another"}', "null"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="not a valid attention graph"):
        AttentionGraph.from_json(text)


def test_a_graph_without_explanations_and_with_the_empty_one():
    image, baseline = scene_of((3, 4))
    score = Table(jnp.ones(2**12))
    nothing = jx.sag.graph(score, image, baseline, result_of([]))
    assert (nothing.nodes, nothing.logic_form()) == ((), "false")
    baseline_only = jx.sag.graph(score, image, baseline, result_of([set()]))
    assert (len(baseline_only.nodes), baseline_only.edges, baseline_only.logic_form()) == (1, (), "true")
    for graph in (nothing, baseline_only):
        assert AttentionGraph.from_json(graph.to_json()) == graph
        assert graph.to_dot()


def test_scores_that_are_not_finite_survive_the_json():
    values = np.linspace(0, 1, 2**12, dtype=np.float32)
    values[0b10] = np.nan
    graph = jx.sag.graph(Table(jnp.asarray(values)), *scene_of((3, 4)), result_of([{1, 2}]))
    lost = graph.find([1])
    assert math.isnan(lost.score)
    assert math.isnan(AttentionGraph.from_json(graph.to_json()).find([1]).score)
    json.loads(graph.to_json(), parse_constant=pytest.fail)
    assert graph.pruned(1).nodes


def test_a_graph_that_grows_too_large_is_marked():
    score = Table(jnp.ones(2**12))
    full = jx.sag.graph(score, *scene_of((3, 4)), result_of([range(8)]))
    assert (len(full.nodes), full.truncated) == (256, False)
    cut = jx.sag.graph(score, *scene_of((3, 4)), result_of([range(8)]), max_nodes=100)
    assert len(cut.nodes) <= 100
    assert cut.truncated


def test_what_no_graph_can_be_made_of_is_refused():
    image, baseline = scene_of((3, 4))
    score, result = Table(jnp.ones(2**12)), result_of([{1}])
    with pytest.raises(ValueError, match="expand_above"):
        jx.sag.graph(score, image, baseline, result, expand_above=1.5)
    with pytest.raises(ValueError, match="max_children"):
        jx.sag.graph(score, image, baseline, result, max_children=0)
    with pytest.raises(ValueError, match="above zero"):
        jx.sag.graph(score, image, baseline, replace(result, image_score=jnp.float32(-1)))
    with pytest.raises(ValueError, match="finer than the image"):
        jx.sag.graph(score, image[:2], baseline[:2], result)


# --- statistics


def test_statistics_by_hand():
    summaries = [
        Summary("ok", 4, sizes=(1, 3), diverse=(1, 2, 2), sub_explanations=(0, 1, 2, 3)),
        Summary("none_found", 4, sizes=(), diverse=(0, 0, 0), sub_explanations=(0, 0, 0, 0)),
        Summary("ok", 4, sizes=(3,), diverse=(1, 1, 1), sub_explanations=None, exact=False),
        Summary("baseline_sufficient", 4, sizes=(0,), diverse=(1, 1, 1), sub_explanations=(0, 0, 0, 3)),
    ]
    found = jx.sag.statistics(summaries)
    np.testing.assert_allclose(found.explained, [0.25, 0.5, 0.5, 0.75, 0.75])
    assert found.sizes.tolist() == [1, 1, 0, 2, 0]
    assert (found.explanations, found.mean_size) == (1.0, 1.75)
    assert found.diverse == (0.75, 1.0, 1.0)
    assert found.sub_explanations == pytest.approx((0, 1 / 3, 2 / 3, 2))
    assert found.statuses == {"ok": 2, "none_found": 1, "baseline_sufficient": 1}
    assert found.incomplete == 1
    json.dumps(found.to_dict(), allow_nan=False)
    for summary in summaries:
        assert Summary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one image"):
        jx.sag.statistics([])
    with pytest.raises(ValueError, match="the same grid"):
        jx.sag.statistics([Summary("ok", 4, (), (0, 0, 0), None), Summary("ok", 9, (), (0, 0, 0), None)])
    with pytest.raises(ValueError, match="not a valid summary"):
        Summary.from_dict({"status": "ok"})


@given(seeds)
@settings(max_examples=12)
def test_a_summary_counts(seed):
    """Sub-explanations are counted from the definition: sets reached from the explanations."""
    table = monotone_table(seed)
    result = search(table, **OPTIONS)
    graph = jx.sag.graph(table, *scene_of((3, 3)), result)
    summary = jx.sag.summarize(result, graph)
    whole = float(result.image_score)
    nodes, _ = slow_graph(lambda s: float(table.of(s)), as_sets(result), 0.4 * whole)
    below = [float(table.of(s)) / whole for s in nodes - set(as_sets(result))]
    assert summary.sub_explanations == tuple(sum(b > level for b in below) for level in (0.8, 0.7, 0.6, 0.5))
    assert summary.sizes == tuple(sorted(map(len, as_sets(result))))
    assert summary.complete
    with pytest.raises(ValueError, match="expand_above"):
        jx.sag.summarize(result, replace(graph, expand_above=0.6))


def test_compositional_and_disjunctive_scores_are_told_apart():
    """All of four patches needed a little each, against any one of four."""
    image, baseline = scene_of((2, 2))

    def numbers(function):
        values = [function(bin(n).count("1")) for n in range(16)]
        table = Table(jnp.asarray(values, jnp.float32))
        result = search(table, (2, 2))
        return jx.sag.summarize(result, jx.sag.graph(table, image, baseline, result))

    compositional, disjunctive = numbers(lambda k: k / 4), numbers(lambda k: float(k > 0))
    assert len(compositional.sizes) == 1
    assert len(disjunctive.sizes) == 4
    assert compositional.sub_explanations[1] == 4
    assert disjunctive.sub_explanations[3] == 0


# --- counterfactuals


def test_support_by_hand():
    """Explanations {1, 3} (15/16; P1 alone 10/16, P3 alone 5/16) and {0} (1); the baseline scores 0."""
    graph = corner_graph()
    for shown, best, mean in [
        ([0, 1, 2, 3], 1, 31 / 32), ([1, 3], 15 / 16, 15 / 32), ([1, 2], 10 / 16, 5 / 16),
        ([3], 5 / 16, 5 / 32), ([2], 0, 0),
    ]:  # fmt: skip
        assert jx.sag.support(graph, shown) == pytest.approx((best, mean))
    assert jx.sag.which_scores_higher(graph, [0], [1, 3]) == 1
    assert jx.sag.which_scores_higher(graph, [3], [1]) == -1
    assert jx.sag.which_scores_higher(graph, [2], []) == 0


def test_support_of_sets_that_were_not_measured():
    """An explanation of three whose pairs keep 0.6, 0.3, 0.9 of it: without two, both shares are lost."""
    nodes = (
        Node((0, 1, 2), 1.0, 1.0, 0, True), Node((1, 2), 0.6, 0.6, 1, False),
        Node((0, 2), 0.3, 0.3, 1, False), Node((0, 1), 0.9, 0.9, 1, False),
    )  # fmt: skip
    graph = AttentionGraph((2, 2), 1.0, 0.05, 0.9, 0.4, nodes, (Edge(0, 1, 0, 0.4),))
    assert jx.sag.support(graph, [0]).best == pytest.approx(0.3 * 0.9)
    assert jx.sag.support(graph, []).best == pytest.approx(0.6 * 0.3 * 0.9)
    assert jx.sag.support(replace(graph, baseline_score=0.2), []).best == 0.2


@given(seeds)
@settings(max_examples=12)
def test_a_full_graph_never_errs_about_its_own_sets(seed):
    table = monotone_table(seed, levels=1000)
    result = search(table, **OPTIONS)
    graph = jx.sag.graph(table, *scene_of((3, 3)), result, expand_above=0.0)
    random = np.random.default_rng(seed)
    for s in random.choice(len(graph.nodes), min(8, len(graph.nodes)), replace=False):
        node = graph.nodes[s]
        assert jx.sag.support(graph, node.patches).best >= min(node.relative, 1.0) - 1e-6


def test_slow_references_agree_with_each_other():
    """The two definitions of the tests are one for monotone scores."""
    table = monotone_table(3, patches=6)
    assert slow_sag.reached(table.of, 6, 0.8) == slow_sag.brute_force(table.of, 6, 0.8)
