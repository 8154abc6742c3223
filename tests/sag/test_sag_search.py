"""The compiled beam search against brute force, the definition and a slow beam search."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_sag
from hypothesis import given
from hypothesis import strategies as st

import jaxplain as jx
from jaxplain.sag import Status

# --- scores of patch sets: images as large as their grid, so that a pixel is a patch


class Table(NamedTuple):
    """Any function of the sets of a small grid."""

    values: jax.Array  # [2 ** P]

    def __call__(self, images):
        bits = images[..., 0].reshape(len(images), -1) > 0.5
        places = 2 ** jnp.arange(bits.shape[1])
        return self.values[jnp.sum(jnp.where(bits, places[None], 0), axis=1)]

    def of(self, s):
        return np.asarray(self.values)[sum(2**p for p in s)]


class Pairs(NamedTuple):
    """A function of the sets of any grid, in steps of a hundredth so that ties are common."""

    single: jax.Array  # [P]
    pair: jax.Array  # [P, P]

    def __call__(self, images):
        bits = images[..., 0].reshape(len(images), -1)
        values = bits @ self.single + jnp.einsum("np,pq,nq->n", bits, self.pair, bits)
        return jnp.round(values * 4) / 4

    def of(self, s):
        bits = np.isin(np.arange(len(self.single)), list(s)).astype(np.float32)
        value = bits @ np.asarray(self.single) + bits @ np.asarray(self.pair) @ bits
        return np.round(np.float32(value) * 4) / 4


def scene_of(grid):
    return jnp.ones((*grid, 1)), jnp.zeros((*grid, 1))


def search(score, grid, **options):
    return jx.sag.search(score, *scene_of(grid), grid=grid, **options)


def as_sets(found):
    return [
        frozenset(np.flatnonzero(row).tolist()) for row in np.asarray(found.sets)[np.asarray(found.valid)]
    ]


def random_table(seed, patches=9, levels=20):
    """Any scores, with ties; the whole image scores above zero."""
    values = np.random.default_rng(seed).integers(0, levels, 2**patches) / levels
    values[-1] = 0.5 + values[-1] / 2
    return Table(jnp.asarray(values, jnp.float32))


def monotone_table(seed, patches=9, levels=20):
    """Scores that never fall as patches are added."""
    values = np.random.default_rng(seed).integers(0, levels, 2**patches) / levels
    values = values ** (1 + seed % 7)
    for patch in range(patches):
        with_patch = np.flatnonzero(np.arange(2**patches) >> patch & 1)
        values[with_patch] = np.maximum(values[with_patch], values[with_patch ^ 2**patch])
    size = np.array([bin(n).count("1") for n in range(2**patches)])
    return Table(jnp.asarray(values * (size / patches) ** 0.5 + 0.01, jnp.float32))


def random_pairs(seed, patches):
    random = np.random.default_rng(seed)
    single = np.round(random.uniform(-0.2, 1, patches) * 8) / 8
    pair = np.where(random.random((patches, patches)) < 0.1, 0.5, 0.0)
    return Pairs(jnp.asarray(single, jnp.float32), jnp.asarray(pair, jnp.float32))


seeds = st.integers(0, 10**6)
shares = st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0])
WHOLE = {"grid": (3, 3), "beam_width": 126, "max_roots": 126}  # 126 sets have 4 of 9 patches

# --- correct


@given(seeds, shares)
def test_of_a_monotone_score_all_minimal_sets_are_found(seed, threshold):
    table = monotone_table(seed)
    found = search(table, threshold=threshold, **WHOLE)
    assert set(as_sets(found)) == slow_sag.brute_force(table.of, 9, threshold)


@given(seeds, shares)
def test_of_any_score_the_definition_is_found(seed, threshold):
    table = random_table(seed)
    found = search(table, threshold=threshold, reduce_supersets=True, **WHOLE)
    assert set(as_sets(found)) == slow_sag.reached(table.of, 9, threshold)


@given(seeds, shares, st.booleans())
def test_a_slow_beam_search_finds_the_same(seed, threshold, supersets):
    """With ties, a narrow beam, candidates by a proposal map; and it scores the very same sets."""
    random = np.random.default_rng(seed)
    score, patches = random_pairs(seed, 20), 20
    proposal = random.integers(0, 5, patches).astype(np.float32)
    found = search(
        score, (4, 5), beam_width=3, candidates=6, threshold=threshold, max_size=9, max_roots=12,
        proposal=proposal, reduce_supersets=supersets,
    )  # fmt: skip
    expected = slow_sag.beam_search(
        score.of, patches, threshold, width=3, candidates=6, max_size=9, max_roots=12,
        proposal=proposal, supersets=supersets,
    )  # fmt: skip
    assert set(as_sets(found)) == expected.roots
    if (
        len(expected.roots) < 12
    ):  # the compiled one reduces a whole group before it sees that the buffer is full
        assert int(found.evaluations) == len(expected.scored) <= expected.asked


@given(seeds)
def test_what_is_found_is_sufficient_and_minimal(seed):
    """On 7 x 7, scored again and not trusted."""
    score = random_pairs(seed, 49)
    found = search(score, (7, 7), beam_width=4, threshold=0.5, max_size=30)
    enough = np.float32(0.5) * score.of(frozenset(range(49)))
    sets = as_sets(found)
    assert len(set(sets)) == len(sets) == len(found)
    for s, value in zip(sets, np.asarray(found.scores), strict=False):
        assert value == score.of(s) >= enough
        assert all(score.of(s - {p}) < enough for p in s)
    assert sets == sorted(sets, key=lambda s: (len(s), *slow_sag.earlier_first(score.of)(s)))


def test_no_set_is_scored_twice():
    """Counted inside the model, not taken from the result."""
    seen = []

    def spy(bits):
        seen.extend(map(tuple, np.asarray(bits).tolist()))
        return np.asarray([random_pairs(3, 16).of(np.flatnonzero(row)) for row in bits], np.float32)

    def score(images):
        bits = images[..., 0].reshape(len(images), -1)
        return jax.pure_callback(spy, jax.ShapeDtypeStruct((len(images),), np.float32), bits)

    found = search(score, (4, 4), beam_width=4, threshold=0.6, reduce_supersets=True, batch_size=1)
    jax.block_until_ready(found)
    assert len(found) > 3
    assert len(seen) == len(set(seen)) == int(found.evaluations)


def test_sets_of_several_words():
    """On 16 x 16 the only way is one patch in each of the packed words."""
    wanted = [5, 40, 70, 255]

    def score(images):
        return images[..., 0].reshape(len(images), -1)[:, jnp.array(wanted)].mean(axis=1)

    found = search(score, (16, 16), beam_width=2, threshold=1.0, max_size=5)
    assert as_sets(found) == [frozenset(wanted)]


def test_rows_of_a_batch_are_independent():
    """Images, thresholds, baselines and scores under vmap: each as if alone, also in evaluations."""
    pairs = [random_pairs(seed, 16) for seed in range(4)]
    stacked = jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *pairs)
    thresholds = jnp.array([0.3, 0.9, 0.5, 1.0])
    image, baseline = scene_of((4, 4))
    images = jnp.stack([image * (1 - 0.1 * n) for n in range(4)])
    baselines = jnp.stack([baseline + 0.05 * n for n in range(4)])

    def one(score, image, baseline, threshold):
        return jx.sag.search(score, image, baseline, grid=4, beam_width=3, threshold=threshold)

    together = jax.vmap(one)(stacked, images, baselines, thresholds)
    for n, pair in enumerate(pairs):
        alone = one(pair, images[n], baselines[n], thresholds[n])
        for name in ("sets", "scores", "valid", "status", "evaluations", "levels"):
            np.testing.assert_allclose(
                getattr(together, name)[n], getattr(alone, name), rtol=1e-6, err_msg=name
            )


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_nothing(batch_size):
    score = random_pairs(5, 16)
    found = search(score, (4, 4), threshold=0.7, batch_size=batch_size)
    expected = search(score, (4, 4), threshold=0.7, batch_size=3)
    assert as_sets(found) == as_sets(expected)
    assert found.evaluations == expected.evaluations


def test_one_compilation_for_all_images():
    score = random_pairs(6, 16)
    search(score, (4, 4), beam_width=2, threshold=0.8)
    with jax.log_compiles(False), jax.check_tracer_leaks(False):
        count = jx.sag.beam._search._cache_size()
        image, baseline = scene_of((4, 4))
        jx.sag.search(score, image * 0.9, baseline + 0.1, grid=(4, 4), beam_width=2, threshold=0.5)
        assert jx.sag.beam._search._cache_size() == count


# --- what can go wrong becomes a status


def status(found):
    return Status(int(found.status))


def table_of(function, patches=4):
    values = [function(frozenset(np.flatnonzero([n >> p & 1 for p in range(patches)]).tolist()))
              for n in range(2**patches)]  # fmt: skip
    return Table(jnp.asarray(values, jnp.float32))


def test_all_patches_may_be_needed():
    found = search(table_of(lambda s: len(s) == 4), (2, 2))
    assert as_sets(found) == [frozenset(range(4))]
    assert status(found) is Status.OK


def test_nothing_found_is_said():
    found = search(table_of(lambda s: len(s) == 4), (2, 2), max_size=3)
    assert len(found) == 0
    assert status(found) is Status.NONE_FOUND
    assert np.isnan(found.scores).all()


def test_a_full_buffer_is_said():
    found = search(table_of(lambda s: len(s) > 0), (2, 2), max_roots=3)
    assert as_sets(found) == [{0}, {1}, {2}]
    assert status(found) is Status.BUFFER_FULL


def test_a_spent_budget_is_said():
    """What was found until then is kept, and is minimal."""
    table = monotone_table(8)
    everything = search(table, threshold=0.5, **WHOLE)
    for budget in range(2, int(everything.evaluations), 23):
        found = search(table, threshold=0.5, max_evaluations=budget, **WHOLE)
        assert set(as_sets(found)) <= set(as_sets(everything))
        assert int(found.evaluations) <= budget
        assert status(found) is Status.BUDGET_SPENT


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9])
def test_a_score_of_about_zero_is_said(value):
    found = search(table_of(lambda s: value if len(s) == 4 else -2.0), (2, 2))
    assert status(found) is Status.LOW_SCORE
    assert len(found) == 0
    assert int(found.evaluations) == 2


def test_a_score_that_rises_when_patches_are_removed():
    found = search(table_of(lambda s: 1 - len(s) / 5), (2, 2))
    assert status(found) is Status.BASELINE_SUFFICIENT
    assert as_sets(found) == [frozenset()]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_said(bad):
    """They suffice for nothing, and do not hide what is sound."""
    found = search(table_of(lambda s: bad if 1 in s and len(s) < 4 else float(0 in s or len(s) == 4)), (2, 2))
    assert status(found) is Status.NOT_FINITE
    assert as_sets(found) == [{0}]
    whole = search(table_of(lambda s: bad), (2, 2))
    assert status(whole) is Status.NOT_FINITE
    assert len(whole) == 0


def test_a_threshold_of_one_asks_for_the_whole_score():
    found = search(table_of(lambda s: len(s & {1, 2}) / 2), (2, 2), threshold=1.0)
    assert as_sets(found) == [{1, 2}]


# --- what cannot be is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grid": (5, 4)}, "finer than the image"),
        ({"grid": 0}, "grid must be at least 1"),
        ({"grid": (1, 2, 3)}, "one whole number or"),
        ({"beam_width": 0}, "beam_width must be at least 1"),
        ({"candidates": 3}, "needs a proposal map"),
        ({"candidates": 0, "proposal": np.zeros(4)}, "candidates must be at least 1"),
        ({"proposal": np.zeros(5)}, "one number a patch"),
        ({"proposal": np.full(4, np.nan)}, "NaN"),
        ({"threshold": 0.0}, "above 0 and at most 1"),
        ({"threshold": 1.1}, "above 0 and at most 1"),
        ({"threshold": np.nan}, "above 0 and at most 1"),
        ({"max_size": 0}, "max_size"),
        ({"max_roots": 0}, "max_roots"),
        ({"max_evaluations": 1}, "at least 2"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    image, baseline = scene_of((4, 4))
    with pytest.raises(ValueError, match=said):
        jx.sag.search(random_pairs(0, 4), image, baseline, **({"grid": 2} | options))


def test_shapes_that_do_not_fit_are_refused():
    image, _ = scene_of((4, 4))
    with pytest.raises(ValueError, match="same shape"):
        jx.sag.search(random_pairs(0, 4), image, jnp.zeros((4, 5, 1)), grid=2)
    with pytest.raises(ValueError, match="one image"):
        jx.sag.search(random_pairs(0, 4), image[None], image, grid=2)


# --- the proposal map


def test_the_proposal_map_completes_to_the_score():
    """Integrated gradients of a smooth score add up to its rise from the baseline."""
    image = jnp.asarray(np.random.default_rng(0).standard_normal((12, 12, 2)), jnp.float32)

    def score(images):
        return jnp.tanh(images.mean((1, 2, 3)) * 3) + (images[:, 2, 3, 0] / 4) ** 3

    baseline = jnp.zeros_like(image)
    rise = score(image[None]) - score(baseline[None])
    proposal = jx.sag.proposal_map(score, image, baseline, grid=(3, 4), steps=64)
    assert proposal.shape == (3, 4)
    np.testing.assert_allclose(proposal.sum(), rise[0], rtol=1e-3)


def test_a_good_proposal_saves_evaluations():
    score = random_pairs(9, 25)
    proposal = jx.sag.proposal_map(lambda images: images[..., 0].reshape(len(images), -1) @ score.single,
                                   *scene_of((5, 5)), grid=5)  # fmt: skip
    np.testing.assert_allclose(proposal.reshape(-1), score.single, atol=1e-5)
    narrow = search(score, (5, 5), threshold=0.5, proposal=proposal, candidates=6)
    wide = search(score, (5, 5), threshold=0.5)
    assert 0 < int(narrow.evaluations) < int(wide.evaluations)
    assert len(narrow) > 0
