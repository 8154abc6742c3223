"""Beam search for minimal sufficient explanations: the patch sets that convince a classifier."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import scores
from jaxplain.checks import check_finite, check_positive_int
from jaxplain.sag import memory as memories
from jaxplain.sag.memory import Memory, Scorer
from jaxplain.sag.minimal import Reduced, reduce_to_minimal
from jaxplain.sag.patches import Scene, best_first, check_scene, grid_shape, leaders, pack
from jaxplain.sag.sets import Status, SufficientSets

CANDIDATES = 15  # patches that each set proposes, where a proposal map ranks them
MAX_SIZE = 20


class _Settings(NamedTuple):
    """The static half of a search."""

    grid: tuple[int, int]
    beam_width: int
    candidates: int
    max_size: int
    max_roots: int
    max_evaluations: int
    reduce_supersets: bool
    batch_size: int | None


class _Roots(NamedTuple):
    """Explanations found so far."""

    sets: Array  # bool [R, P]
    scores: Array  # [R]
    found: Array  # int32 [], rows in use


class _State(NamedTuple):
    """The carry of the loop over set sizes; B states of the beam."""

    size: Array  # int32 [], patches of the beam's sets
    beams: Array  # bool [B, P]
    alive: Array  # bool [B], which of them are sets to expand
    roots: _Roots
    memory: Memory


class _Rules(NamedTuple):
    """What the loop needs to know of the image."""

    scorer: Scorer
    proposal: Array  # [P], high = proposed first
    enough: Array  # [], the least sufficient score


def search(
    score: scores.Score,
    image: Array,
    baseline: Array,
    *,
    grid: int | tuple[int, int] = (7, 7),
    beam_width: int = 5,
    candidates: int | None = None,
    threshold: float | Array = 0.9,
    max_size: int | None = None,
    max_roots: int = 30,
    proposal: Array | None = None,
    min_score: float | Array = 1e-4,
    max_evaluations: int | None = None,
    reduce_supersets: bool = False,
    batch_size: int | None = None,
) -> SufficientSets:
    """Minimal sufficient explanations (MSEs) of one image, by beam search over sets of patches.

    A set of patches is shown on the baseline; it is *sufficient* when its score is at least `threshold` times
    that of the image, and *minimal* when no single patch can be removed. From the empty set on, each of the
    `beam_width` best insufficient sets of a size proposes its `candidates` best unused patches, and all
    successors are scored as one batch. Those that suffice are reduced to minimal ones and recorded (see
    `reduce_supersets`); of the others the `beam_width` of highest score go on (ties: the set with earlier
    patches). No set is scored twice.

    Args:
      score: what to explain, a callable pytree from images [N, H, W, C] to [N], above 0 for the image; see
        `class_score`. A plain function works, but every new function object compiles anew.
      image: [H, W, C] float, in the model's input space.
      baseline: [H, W, C], what hides a patch.
      grid: rows and columns of patches, one number or both (static); at most the image's.
      beam_width: sets that are expanded at each size (static).
      candidates: patches that each proposes (static); None: all, or 15 with a proposal map.
      threshold: in (0, 1], a number that may be traced.
      max_size: largest set tried (static); None: 20, or all patches of a small grid.
      max_roots: explanations that there is room for; the search stops when they are found (static).
      proposal: [P] or [rows, cols], high = proposed first; see `proposal_map`. None proposes all patches.
      min_score: below this the score of the image counts as zero and nothing is searched.
      max_evaluations: budget of model evaluations (static), also the size of the memory of scored sets;
        None is generous. When it is spent, the search stops with what it has.
      reduce_supersets: also reduce a sufficient set that contains an explanation known from smaller sizes
        (static). Such a set is not minimal and mostly reduces to what is known: on photos this found a
        quarter more explanations for twice the evaluations, and none more where no score ever rises as
        patches are removed and the beam holds all sets.
      batch_size: images per model call; None chooses by platform.

    Returns:
      `SufficientSets`. A score that is NaN or about zero, a baseline that suffices alone, nothing found: no
      errors, but a `Status` in the result.

    Raises:
      ValueError, TypeError: shapes or options that do not fit, a concrete threshold outside (0, 1], a NaN in
        the image, baseline or proposal.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough: Structured Attention Graphs for
      Image Classification. NeurIPS 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image, hidden = jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3))
      >>> corners = lambda images: jnp.maximum(images[:, 0, 0, 0], images[:, 7, 7, 0] * images[:, 0, 7, 0])
      >>> found = jx.sag.search(corners, image, hidden, grid=2, beam_width=8)
      >>> [row.nonzero()[0].tolist() for row in found.sets[found.valid]]
      [[0], [1, 3]]
    """
    rows, cols = grid_shape(grid)
    check_scene(image, baseline, (rows, cols))
    _check_share(threshold, "threshold")
    ranked = _proposal(proposal, (rows, cols))
    width, patches = check_positive_int(beam_width, "beam_width"), rows * cols
    offered = _offered(candidates, patches, ranked is not None)
    largest = min(patches, MAX_SIZE if max_size is None else check_positive_int(max_size, "max_size"))
    settings = _Settings(
        grid=(rows, cols),
        beam_width=width,
        candidates=offered,
        max_size=largest,
        max_roots=check_positive_int(max_roots, "max_roots"),
        max_evaluations=_budget(max_evaluations, patches, largest * width * offered),
        reduce_supersets=bool(reduce_supersets),
        batch_size=None if batch_size is None else check_positive_int(batch_size, "batch_size"),
    )
    scene = Scene(image, baseline)
    limits = (jnp.asarray(threshold, jnp.float32), jnp.asarray(min_score, jnp.float32))
    return _search(scores.as_pytree(score), scene, ranked, *limits, settings=settings)


def _check_share(value: Any, name: str) -> None:
    """A concrete number in (0, 1]."""
    if isinstance(value, jax.core.Tracer):
        return
    if not np.all((np.asarray(value) > 0) & (np.asarray(value) <= 1)):
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}.")


def _proposal(proposal: Array | None, grid: tuple[int, int]) -> Array | None:
    if proposal is None:
        return None
    ranked = jnp.asarray(proposal)
    if ranked.shape not in (grid, (grid[0] * grid[1],)):
        raise ValueError(
            f"proposal must be one number a patch, {grid} or ({grid[0] * grid[1]},), got {ranked.shape}."
        )
    check_finite(ranked, "proposal")
    return ranked.reshape(-1).astype(jnp.float32)


def _offered(candidates: int | None, patches: int, ranked: bool) -> int:
    """Patches that each set of the beam proposes."""
    if candidates is None:
        return min(patches, CANDIDATES) if ranked else patches
    if not ranked:
        raise ValueError("candidates needs a proposal map to choose by: pass proposal= or leave it out.")
    return min(patches, check_positive_int(candidates, "candidates"))


def _budget(given: int | None, patches: int, successors: int) -> int:
    """Model evaluations: by default for all successors and several times as many removals."""
    if given is None:
        generous = 2 + 4 * successors
        return generous if patches > 30 else min(generous, 2**patches)  # all sets of a small grid
    if check_positive_int(given, "max_evaluations") < 2:
        raise ValueError("max_evaluations must be at least 2: the image and the baseline are scored first.")
    return int(given)


@partial(jax.jit, static_argnames="settings")
def _search(
    score: scores.Score,
    scene: Scene,
    proposal: Array | None,
    threshold: Array,
    min_score: Array,
    *,
    settings: _Settings,
) -> SufficientSets:
    patches = settings.grid[0] * settings.grid[1]
    scorer = memories.scorer(score, scene, settings.grid, settings.batch_size)
    ends = jnp.array([[True] * patches, [False] * patches])
    memory, found = scorer(memories.empty(settings.max_evaluations, patches), ends, jnp.ones(2, bool))
    image_score, baseline_score = found.scores
    ranked = jnp.zeros(patches) if proposal is None else proposal
    rules = _Rules(scorer, ranked, threshold * image_score)
    start = _start(settings, rules, memory, baseline_score, image_score >= min_score)
    end = jax.lax.while_loop(partial(_unfinished, settings), partial(_level, settings, rules), start)
    return _result(settings, end, image_score, baseline_score, threshold, image_score >= min_score)


def _start(
    settings: _Settings, rules: _Rules, memory: Memory, baseline_score: Array, worthwhile: Array
) -> _State:
    """The empty set: an explanation where it suffices, and else what the beam starts from."""
    patches = rules.proposal.shape[0]
    nothing = jnp.zeros((1, patches), bool)
    suffices = worthwhile & (baseline_score >= rules.enough)
    roots = _Roots(
        sets=jnp.zeros((settings.max_roots, patches), bool),
        scores=jnp.full(settings.max_roots, jnp.nan, jnp.float32),
        found=jnp.zeros((), jnp.int32),
    )
    return _State(
        size=jnp.zeros((), jnp.int32),
        beams=jnp.zeros((settings.beam_width, patches), bool),
        alive=(jnp.arange(settings.beam_width) == 0) & worthwhile & ~suffices,
        roots=_record(roots, Reduced(nothing, baseline_score[None], suffices[None])),
        memory=memory,
    )


def _unfinished(settings: _Settings, state: _State) -> Array:
    """Whether there is a larger size to try; also the answer, under vmap, for rows that are done already."""
    room = (state.roots.found < settings.max_roots) & ~state.memory.overdrawn
    return jnp.any(state.alive) & (state.size < settings.max_size) & room


def _level(settings: _Settings, rules: _Rules, state: _State) -> _State:
    """One size: score the beam's successors, reduce and record the sufficient, go on with the best rest."""
    sets, proposed = _successors(settings, rules, state)
    # Under vmap a finished row runs along; it must cost no model calls.
    memory, found = rules.scorer(state.memory, sets, proposed & _unfinished(settings, state))
    suffices = found.first & (found.scores >= rules.enough)
    if not settings.reduce_supersets:
        suffices = suffices & ~_contains_root(state.roots, sets)
    memory, roots = _record_sufficient(settings, rules, memory, state.roots, sets, found.scores, suffices)
    insufficient = found.first & (found.scores < rules.enough)
    best = best_first(found.scores, pack(sets), insufficient)[: settings.beam_width]
    missing = settings.beam_width - best.shape[0]
    return _State(
        size=state.size + 1,
        beams=jnp.pad(sets[best], ((0, missing), (0, 0))),
        alive=jnp.pad(insufficient[best], (0, missing)),
        roots=roots,
        memory=memory,
    )


def _successors(settings: _Settings, rules: _Rules, state: _State) -> tuple[Array, Array]:
    """Each beam's set with each of its best unused patches: bool [B * Q, P], and which of them exist."""
    patches = rules.proposal.shape[0]
    ranks = jnp.where(state.beams, -jnp.inf, rules.proposal[None])  # [B, P]
    _, chosen = jax.lax.top_k(ranks, settings.candidates)  # [B, Q]
    unused = ~jnp.take_along_axis(state.beams, chosen, axis=1)
    larger = state.beams[:, None] | jax.nn.one_hot(chosen, patches, dtype=bool)  # [B, Q, P]
    return larger.reshape(-1, patches), (unused & state.alive[:, None]).reshape(-1)


def _contains_root(roots: _Roots, sets: Array) -> Array:
    """Which sets contain an explanation found so far: bool [N, P] -> bool [N]."""
    filled = jnp.arange(roots.sets.shape[0]) < roots.found
    return ((~roots.sets[None] | sets[:, None]).all(axis=-1) & filled[None]).any(axis=1)


class _Group(NamedTuple):
    """The carry of the loop over the sufficient sets of a level, G at a time."""

    number: Array  # int32 []
    memory: Memory
    roots: _Roots


def _record_sufficient(
    settings: _Settings,
    rules: _Rules,
    memory: Memory,
    roots: _Roots,
    sets: Array,
    set_scores: Array,
    suffices: Array,
) -> tuple[Memory, _Roots]:
    """Reduce the sufficient sets, best first, until all are or the buffer is full.

    They are taken in groups, so that what a full buffer has no room for is not reduced at all.
    """
    size = min(settings.max_roots, sets.shape[0])
    order = best_first(set_scores, pack(sets), suffices)
    order = jnp.pad(order, (0, size - 1), mode="edge")  # the last group's surplus rows, never active
    count = jnp.sum(suffices, dtype=jnp.int32)

    def unfinished(group: _Group) -> Array:
        left = group.number * size < count
        return left & (group.roots.found < settings.max_roots) & ~group.memory.overdrawn

    def reduce(group: _Group) -> _Group:
        first = group.number * size
        rows = jax.lax.dynamic_slice_in_dim(order, first, size)
        active = (first + jnp.arange(size) < count) & unfinished(group)
        memory, reduced = reduce_to_minimal(
            rules.scorer, group.memory, sets[rows], set_scores[rows], active, rules.enough, settings.max_size
        )
        return _Group(group.number + 1, memory, _record(group.roots, reduced))

    end = jax.lax.while_loop(unfinished, reduce, _Group(jnp.zeros((), jnp.int32), memory, roots))
    return end.memory, end.roots


def _record(roots: _Roots, reduced: Reduced) -> _Roots:
    """The roots with those minimal sets that are not yet among them, as far as there is room."""
    capacity, groups = roots.sets.shape[0], reduced.sets.shape[0]
    filled = jnp.arange(capacity) < roots.found
    known = (roots.sets[None] == reduced.sets[:, None]).all(axis=-1) & filled[None]
    leads = leaders(pack(reduced.sets), reduced.minimal) == jnp.arange(groups)
    new = reduced.minimal & leads & ~known.any(axis=1)
    at = jnp.where(new, roots.found + jnp.cumsum(new) - 1, capacity)
    return _Roots(
        sets=roots.sets.at[at].set(reduced.sets, mode="drop"),
        scores=roots.scores.at[at].set(reduced.scores, mode="drop"),
        found=jnp.minimum(roots.found + jnp.sum(new, dtype=jnp.int32), capacity),
    )


def _result(
    settings: _Settings,
    end: _State,
    image_score: Array,
    baseline_score: Array,
    threshold: Array,
    worthwhile: Array,
) -> SufficientSets:
    valid = jnp.arange(settings.max_roots) < end.roots.found
    sizes = jnp.sum(end.roots.sets, axis=1, dtype=jnp.int32)
    keys = (~valid, sizes, -end.roots.scores, *(~pack(end.roots.sets)).T)
    order = jax.lax.sort((*keys, jnp.arange(settings.max_roots)), num_keys=len(keys))[-1]
    found_scores = end.roots.scores[order]
    return SufficientSets(
        sets=end.roots.sets[order],
        scores=found_scores,
        relative=found_scores / image_score,
        sizes=sizes[order],
        valid=valid,
        image_score=image_score,
        baseline_score=baseline_score,
        threshold=threshold,
        levels=end.size,
        evaluations=end.memory.used,
        status=_status(settings, end, worthwhile),
        grid=settings.grid,
    )


def _status(settings: _Settings, end: _State, worthwhile: Array) -> Array:
    """The first status that applies."""
    happened = (
        (end.memory.not_finite, Status.NOT_FINITE),
        (~worthwhile, Status.LOW_SCORE),
        ((end.roots.found == 1) & (end.size == 0), Status.BASELINE_SUFFICIENT),
        (end.memory.overdrawn, Status.BUDGET_SPENT),
        (end.roots.found == settings.max_roots, Status.BUFFER_FULL),
        (end.roots.found == 0, Status.NONE_FOUND),
    )
    return jnp.select(
        [flag for flag, _ in happened],
        [jnp.int32(status) for _, status in happened],
        jnp.int32(Status.OK),
    )
