"""The compiled beam search against brute force, the definition and a slow beam search."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import slow_sag
from support.patch_scores import (
    as_sets,
    monotone_table,
    random_pairs,
    random_table,
    scene_of,
    search,
    table_of,
)

import jaxplain as jx
from jaxplain.explanation import Status

seeds = st.integers(0, 10**6)
shares = st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0])
WHOLE = {"grid": (3, 3), "beam_width": 126, "max_explanations": 126}  # 126 sets have 4 of 9 patches
SMALL = {"grid": (4, 4), "beam_width": 4}  # one compiled program for several tests

# ---------------------------------------------------------------------------------------------------------
# Correct


@given(seeds, shares)
@settings(max_examples=10)
def test_all_minimal_sets_of_a_monotone_score_are_found(seed, threshold):
    table = monotone_table(seed)
    result = search(table, threshold=threshold, **WHOLE)
    assert set(as_sets(result)) == slow_sag.brute_force(table.of, 9, threshold)


@given(seeds, shares)
@settings(max_examples=10)
def test_the_sets_that_the_definition_reaches_are_found(seed, threshold):
    table = random_table(seed)
    result = search(table, threshold=threshold, reduce_supersets=True, **WHOLE)
    assert set(as_sets(result)) == slow_sag.reached(table.of, 9, threshold)


@given(seeds, shares, st.booleans())
def test_a_slow_beam_search_finds_the_same(seed, threshold, supersets):
    """With ties, a narrow beam, candidates by a proposal map; and it scores the very same sets."""
    score, patches = random_pairs(seed, 20), 20
    proposal = np.random.default_rng(seed).integers(0, 5, patches).astype(np.float32)
    result = search(
        score, (4, 5), beam_width=3, candidates=6, threshold=threshold, max_size=9, max_explanations=12,
        proposal=proposal, reduce_supersets=supersets,
    )  # fmt: skip
    expected = slow_sag.beam_search(
        score.of, patches, threshold, width=3, candidates=6, max_size=9, max_explanations=12,
        proposal=proposal, supersets=supersets,
    )  # fmt: skip
    assert set(as_sets(result)) == expected.explanations
    history, levels = result.history, int(result.levels)
    assert levels == len(expected.best) - 1
    whole = score.of(frozenset(range(patches)))
    np.testing.assert_allclose(history.best_score[: levels + 1], np.float32(expected.best) / whole, rtol=1e-6)
    # A whole group is reduced before a full buffer is noticed, so a full buffer may cost more evaluations.
    if len(expected.explanations) < 12:
        assert int(result.evaluations) == len(expected.scored) <= expected.asked


def test_the_history_has_one_row_per_size():
    result = search(random_pairs(3, 16), threshold=0.6, **SMALL)
    history, levels = result.history, int(result.levels)
    assert history.size.tolist() == list(range(17))
    assert 1 < levels < 16
    assert np.isfinite(history.best_score[: levels + 1]).all()
    assert np.isnan(history.best_score[levels + 1 :]).all()
    assert history.explanations[0] == 0
    assert history.evaluations[0] == 2
    for counts, total in ((history.explanations, len(result)), (history.evaluations, result.evaluations)):
        assert (np.diff(counts) >= 0).all()
        assert (counts[levels:] == int(total)).all()


@given(seeds)
@settings(max_examples=10)
def test_every_explanation_is_sufficient_and_minimal(seed):
    """On 5 x 5, by scoring again."""
    score = random_pairs(seed, 25)
    result = search(score, (5, 5), threshold=0.5)
    enough = np.float32(0.5) * score.of(frozenset(range(25)))
    sets = as_sets(result)
    assert len(set(sets)) == len(sets) == len(result)
    for row, (s, value) in enumerate(zip(sets, np.asarray(result.scores), strict=False)):
        assert value == score.of(s) >= enough
        assert all(score.of(s - {p}) < enough for p in s)
        assert result.patches(row) == sorted(s)
    assert sets == sorted(sets, key=lambda s: (len(s), *slow_sag.earlier_first(score.of)(s)))


def test_sets_of_several_words():
    """On 16 x 16 the only explanation has one patch in each of four packed words."""
    wanted = [5, 40, 70, 255]

    def score(images):
        return images[..., 0].reshape(len(images), -1)[:, jnp.array(wanted)].mean(axis=1)

    result = search(score, (16, 16), beam_width=2, threshold=1.0, max_size=5)
    assert as_sets(result) == [frozenset(wanted)]


def test_the_baseline_defaults_to_the_blurred_image_and_the_key_is_ignored():
    image = jnp.asarray(np.random.default_rng(0).random((4, 4, 1)), jnp.float32)
    score = random_pairs(1, 16)
    default = jx.sag.search(score, image, key=jax.random.key(0), **SMALL)
    explicit = jx.sag.search(score, image, jx.blur_baseline(image), **SMALL)
    jax.tree_util.tree_map(np.testing.assert_array_equal, default, explicit)


# ---------------------------------------------------------------------------------------------------------
# Model calls


def counting_score(calls):
    """A score that records every patch set it is called with, counted inside the model."""
    table = random_pairs(3, 16)

    def spy(bits):
        calls.extend(map(tuple, np.asarray(bits).tolist()))
        return np.asarray([table.of(np.flatnonzero(row)) for row in bits], np.float32)

    def score(images):
        bits = images[..., 0].reshape(len(images), -1)
        return jax.pure_callback(spy, jax.ShapeDtypeStruct((len(images),), np.float32), bits)

    return score


def test_no_set_is_scored_twice_and_a_finished_search_makes_no_calls():
    calls = []
    result = search(
        counting_score(calls), (4, 4), beam_width=4, threshold=0.6, reduce_supersets=True, batch_size=1
    )
    jax.block_until_ready(result)
    assert len(result) > 3
    assert int(result.levels) < 16  # the scan continues after the search has finished
    assert len(calls) == len(set(calls)) == int(result.evaluations)


def test_finished_rows_of_a_vmap_make_no_calls():
    calls = []
    score = counting_score(calls)
    thresholds = jnp.array([0.05, 0.6, 0.3])
    results = jax.vmap(
        lambda threshold: search(score, (4, 4), beam_width=4, threshold=threshold, batch_size=1)
    )(thresholds)
    jax.block_until_ready(results)
    assert len(set(results.levels.tolist())) > 1
    assert len(calls) == int(results.evaluations.sum())


def test_the_compiled_search_contains_the_model_once():
    """`tanh` stands for the model; a second call site would be a second copy."""

    def score(images):
        return jnp.tanh(images.mean((1, 2, 3)))

    program = jax.make_jaxpr(lambda image, baseline: jx.sag.search(score, image, baseline, grid=2))
    text = str(program(*scene_of((4, 4))))
    assert text.count("tanh") == 1


# ---------------------------------------------------------------------------------------------------------
# Batches


def test_rows_of_a_vmap_are_independent():
    """Images, thresholds, baselines and scores under vmap: each as if alone, also in evaluations."""
    pairs = [random_pairs(seed, 16) for seed in range(4)]
    stacked = jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *pairs)
    thresholds = jnp.array([0.3, 0.9, 0.5, 1.0])
    image, baseline = scene_of((4, 4))
    images = jnp.stack([image * (1 - 0.1 * n) for n in range(4)])
    baselines = jnp.stack([baseline + 0.05 * n for n in range(4)])

    def one(score, image, baseline, threshold):
        return jx.sag.search(score, image, baseline, threshold=threshold, **SMALL)

    together = jax.vmap(one)(stacked, images, baselines, thresholds)
    for n, pair in enumerate(pairs):
        alone = one(pair, images[n], baselines[n], thresholds[n])
        row = jax.tree_util.tree_map(lambda leaf, n=n: leaf[n], together)
        assert as_sets(row) == as_sets(alone)
        for name in ("scores", "valid", "status", "evaluations", "levels", "history"):
            jax.tree_util.tree_map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
                getattr(row, name),
                getattr(alone, name),
            )


@pytest.mark.parametrize("batch_size", [7, 64])
def test_batch_size_changes_nothing(batch_size):
    score = random_pairs(5, 16)
    result = search(score, threshold=0.7, batch_size=batch_size, **SMALL)
    expected = search(score, threshold=0.7, **SMALL)
    assert as_sets(result) == as_sets(expected)
    assert result.evaluations == expected.evaluations


def test_one_compilation_for_all_images():
    score = random_pairs(6, 16)
    search(score, threshold=0.8, **SMALL)
    program = importlib.import_module("jaxplain.sag.search")._search
    count = program._cache_size()
    image, baseline = scene_of((4, 4))
    jx.sag.search(score, image * 0.9, baseline + 0.1, threshold=0.5, **SMALL)
    assert program._cache_size() == count


# ---------------------------------------------------------------------------------------------------------
# What can go wrong inside becomes a status


def status(result):
    return Status(int(result.status))


def test_all_patches_may_be_needed():
    result = search(table_of(lambda s: len(s) == 4), (2, 2))
    assert as_sets(result) == [frozenset(range(4))]
    assert status(result) is Status.OK


def test_status_of_a_search_that_finds_nothing():
    result = search(table_of(lambda s: len(s) == 4), (2, 2), max_size=3, max_explanations=3)
    assert len(result) == 0
    assert status(result) is Status.NONE_FOUND
    assert np.isnan(result.scores).all()


def test_status_of_a_full_buffer():
    result = search(table_of(lambda s: len(s) > 0), (2, 2), max_size=3, max_explanations=3)
    assert as_sets(result) == [{0}, {1}, {2}]
    assert status(result) is Status.BUFFER_FULL


def test_status_of_a_spent_budget():
    """What was found until then is kept, and is minimal."""
    table = monotone_table(8)
    everything = search(table, threshold=0.5, **WHOLE)
    for budget in (2, int(everything.evaluations) // 2):
        result = search(table, threshold=0.5, max_evaluations=budget, **WHOLE)
        assert set(as_sets(result)) <= set(as_sets(everything))
        assert int(result.evaluations) <= budget
        assert status(result) is Status.BUDGET_SPENT


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9])
def test_status_of_a_score_of_about_zero(value):
    result = search(table_of(lambda s: value if len(s) == 4 else -2.0), (2, 2))
    assert status(result) is Status.LOW_SCORE
    assert len(result) == 0
    assert int(result.evaluations) == 2


def test_status_of_a_score_that_rises_when_patches_are_removed():
    result = search(table_of(lambda s: 1 - len(s) / 5), (2, 2))
    assert status(result) is Status.BASELINE_SUFFICIENT
    assert as_sets(result) == [frozenset()]
    assert int(result.levels) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_status_of_scores_that_are_not_finite(bad):
    """They are never sufficient, and do not hide sound explanations."""
    broken = table_of(lambda s: bad if 1 in s and len(s) < 4 else float(0 in s or len(s) == 4))
    result = search(broken, (2, 2))
    assert status(result) is Status.NOT_FINITE
    assert as_sets(result) == [{0}]
    whole = search(table_of(lambda s: bad), (2, 2))
    assert status(whole) is Status.NOT_FINITE
    assert len(whole) == 0
    of_the_baseline = search(table_of(lambda s: float(0 in s) if s else bad), (2, 2))
    assert status(of_the_baseline) is Status.NOT_FINITE
    assert as_sets(of_the_baseline) == [{0}]


def test_a_threshold_of_one_needs_the_whole_score():
    result = search(table_of(lambda s: len(s & {1, 2}) / 2), (2, 2), threshold=1.0)
    assert as_sets(result) == [{1, 2}]


# ---------------------------------------------------------------------------------------------------------
# Arguments that are refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": (5, 4)}, "finer than the image"),
        ({"grid": 0}, "grid must be at least 1"),
        ({"grid": (1, 2, 3)}, "an integer or"),
        ({"beam_width": 0}, "beam_width must be at least 1"),
        ({"candidates": 3}, "requires a proposal map"),
        ({"candidates": 0, "proposal": np.zeros(4)}, "candidates must be at least 1"),
        ({"proposal": np.zeros(5)}, "one number per patch"),
        ({"proposal": np.full(4, np.nan)}, "NaN"),
        ({"threshold": 0.0}, "above 0 and at most 1"),
        ({"threshold": 1.1}, "above 0 and at most 1"),
        ({"threshold": np.nan}, "above 0 and at most 1"),
        ({"threshold": np.ones(2)}, "must be one number"),
        ({"max_size": 0}, "max_size"),
        ({"max_explanations": 0}, "max_explanations"),
        ({"max_evaluations": 1}, "at least 2"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    image, baseline = scene_of((4, 4))
    with pytest.raises(ValueError, match=message):
        jx.sag.search(random_pairs(0, 4), image, baseline, **({"grid": 2} | options))


def test_shapes_that_do_not_fit_are_refused():
    image, _ = scene_of((4, 4))
    with pytest.raises(ValueError, match="same shape"):
        jx.sag.search(random_pairs(0, 4), image, jnp.zeros((4, 5, 1)), grid=2)
    with pytest.raises(ValueError, match="one image"):
        jx.sag.search(random_pairs(0, 4), image[None], image, grid=2)


# ---------------------------------------------------------------------------------------------------------
# The proposal map


def test_the_proposal_map_adds_up_to_the_score():
    """Integrated gradients of a smooth score add up to its rise from the baseline."""
    image = jnp.asarray(np.random.default_rng(0).standard_normal((12, 12, 2)), jnp.float32)

    def score(images):
        return jnp.tanh(images.mean((1, 2, 3)) * 3) + (images[:, 2, 3, 0] / 4) ** 3

    baseline = jnp.zeros_like(image)
    rise = score(image[None]) - score(baseline[None])
    proposal = jx.sag.proposal_map(score, image, baseline, grid=(3, 4), n_steps=64)
    assert proposal.shape == (3, 4)
    np.testing.assert_allclose(proposal.sum(), rise[0], rtol=1e-3)


def test_a_good_proposal_saves_evaluations():
    score = random_pairs(9, 25)

    def linear(images):
        return images[..., 0].reshape(len(images), -1) @ score.single

    proposal = jx.sag.proposal_map(linear, *scene_of((5, 5)), grid=5)
    np.testing.assert_allclose(proposal.reshape(-1), score.single, atol=1e-5)
    narrow = search(score, (5, 5), threshold=0.5, proposal=proposal, candidates=6)
    wide = search(score, (5, 5), threshold=0.5)
    assert 0 < int(narrow.evaluations) < int(wide.evaluations)
    assert len(narrow) > 0
