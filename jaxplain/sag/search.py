"""Beam search for minimal sufficient explanations, as a `lax.scan` over the size of the patch sets.

The compiled search calls the model in only one place. Each scan step handles one set size and loops over
batches of patch sets: first the successors of the beam, then single-patch removals from groups of sufficient
sets.

In shapes, P is the number of patches, B the beam width, R the maximum number of explanations, G the group
size, and M the number of successors.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel, paths
from jaxplain.checks import (
    Pair,
    as_grid,
    as_image,
    as_number,
    as_share,
    check_batch_size,
    check_finite,
    check_int_from,
    check_positive_int,
)
from jaxplain.explanation import Status
from jaxplain.perturb import as_baseline, blend, upsample
from jaxplain.sag.minimal import Group, removals, remove_best
from jaxplain.sag.patches import Scene, best_first, contains_any, find_rows, pack, places, successors
from jaxplain.sag.scoring import SetMemory, SetScores, empty_memory, score_sets
from jaxplain.scores import Score, as_pytree

_CANDIDATES = 15  # default number of candidates with a proposal map


class SearchHistory(NamedTuple):
    """Progress of a search, one row per set size 0, 1, ..., `max_size`.

    Row 0 is the empty set, i.e. the baseline. Rows beyond `SearchResult.levels` were not reached: their
    `best_score` is NaN, and their counts are the final counts.
    """

    size: Array  # int32 [S], patches per set
    best_score: Array  # [S], best score among sets of this size, as a fraction of the image's score
    explanations: Array  # int32 [S], explanations found so far
    evaluations: Array  # int32 [S], model evaluations so far


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "explanations",
        "scores",
        "relative",
        "sizes",
        "valid",
        "image_score",
        "baseline_score",
        "threshold",
        "levels",
        "evaluations",
        "status",
        "history",
    ],
    meta_fields=["grid"],
)
@dataclass(frozen=True)
class SearchResult:
    """Minimal sufficient explanations of one image, in up to R valid rows.

    `search` fills the first `len(result)` rows, sorted by size and then by descending score. Each explanation
    is sufficient, no single patch can be removed from it, and no two explanations are equal.
    """

    explanations: Array  # bool [R, P], True where a patch is shown
    scores: Array  # [R], NaN in rows that are not valid
    relative: Array  # [R], fraction of the image's score
    sizes: Array  # int32 [R], number of patches
    valid: Array  # bool [R], which rows contain an explanation
    image_score: Array  # []
    baseline_score: Array  # []
    threshold: Array  # [], fraction of the image's score that is sufficient
    levels: Array  # int32 [], largest set size tried
    evaluations: Array  # int32 [], number of distinct sets scored, including image and baseline
    status: Array  # int32 [], a `Status`
    history: SearchHistory
    grid: tuple[int, int]  # rows and columns of patches; static

    def __len__(self) -> int:
        """Return the number of explanations; the result must be concrete."""
        return int(np.sum(self.valid))

    def patches(self, row: int) -> list[int]:
        """Return an explanation's patch indices, ascending; the result must be concrete and for one image."""
        return np.flatnonzero(np.asarray(self.explanations)[row]).tolist()


class _SearchSettings(NamedTuple):
    """The static options of a search."""

    grid: tuple[int, int]
    beam_width: int
    candidates: int
    max_size: int
    max_explanations: int
    max_evaluations: int
    reduce_supersets: bool
    batch_size: int | None

    @property
    def proposed(self) -> int:
        """M, the number of sets per expansion; at size 0, these are the image and the baseline."""
        return max(2, self.beam_width * self.candidates)

    @property
    def group_size(self) -> int:
        """G, the number of sufficient sets that are reduced together."""
        return min(self.max_explanations, self.beam_width * self.candidates)


class _SearchProblem(NamedTuple):
    """The traced inputs to a search, constant over all steps."""

    score: Score
    scene: Scene
    proposal: Array  # [P], priority of each patch, highest first
    threshold: Array  # []
    min_score: Array  # []


class _ExplanationBuffer(NamedTuple):
    """Explanations found so far."""

    sets: Array  # bool [R, P]
    scores: Array  # [R]
    used: Array  # int32 [], number of rows in use


class _Queue(NamedTuple):
    """The successors of one size, and the order in which to reduce those that are sufficient."""

    sets: Array  # bool [M, P]
    scores: Array  # [M]
    order: Array  # int32 [M + G - 1], rows of the sufficient sets first, best first
    length: Array  # int32 [], number of sufficient sets
    start: Array  # int32 [], position of the next group in `order`


class _SearchState(NamedTuple):
    """Carry of the scan over set sizes and of the loop over the batches of one size."""

    beam: Array  # bool [B, P], insufficient sets to expand
    alive: Array  # bool [B], which rows of the beam are in use
    phase: Array  # int32 [], phase of the current size
    queue: _Queue
    group: Group
    buffer: _ExplanationBuffer
    memory: SetMemory
    image_score: Array  # [], NaN until size 0 is done
    baseline_score: Array  # []
    best_score: Array  # [], best score among the sets of the current size
    levels: Array  # int32 [], largest size tried


_EXPAND, _REDUCE, _DONE = range(3)  # phases for each size: score successors, score removals, done


def search(
    score: Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    grid: Pair = 7,
    beam_width: int = 5,
    candidates: int | None = None,
    threshold: float | Array = 0.9,
    max_size: int = 20,
    max_explanations: int = 30,
    proposal: Array | None = None,
    min_score: float | Array = 1e-4,
    max_evaluations: int | None = None,
    reduce_supersets: bool = False,
) -> SearchResult:
    """Find minimal sufficient explanations (MSEs) of an image, by beam search over sets of patches.

    A set of patches is shown, and the baseline replaces all other patches. The set is *sufficient* if its
    score is at least `threshold` times the image's score, and *minimal* if no single patch can be removed.
    The search starts from the empty set. For each size, the `beam_width` best insufficient sets are extended
    by each of their `candidates` best unused patches, and all of these successors are scored as one batch.
    Sufficient successors are reduced to minimal sets and recorded (see `reduce_supersets`). From the others,
    the `beam_width` sets with the highest scores form the next beam (ties go to the set with earlier
    patches). No set is scored twice, and a finished search makes no further model calls.

    Args:
      score: the score to explain, a callable pytree from images [N, H, W, C] to [N], above 0 for the image;
        see `class_score`. A plain function works, but every new function object triggers recompilation.
      image: [H, W, C] float, in the model's input space.
      baseline: image that replaces hidden patches, [H, W, C]; default: the blurred image.
      key: ignored; the search is deterministic.
      batch_size: images per model call (static); default: chosen for the platform.
      grid: rows and columns of patches, as one number or a pair (static); no finer than the image.
      beam_width: number of sets expanded at each size (static).
      candidates: number of extensions per set (static); default: all patches, or 15 with a proposal map.
      threshold: fraction of the image's score that is sufficient, in (0, 1]; may be traced.
      max_size: largest set size to try (static); at most the number of patches.
      max_explanations: maximum number of explanations (static); the search stops when it is reached.
      proposal: priority of each patch, [P] or [rows, cols], highest first; see `proposal_map`. If None, all
        patches are tried.
      min_score: minimum score of the image; if its score is lower, no search is performed.
      max_evaluations: maximum number of model evaluations (static), which is also the capacity of the cache;
        the default is generous. When it is reached, the search stops and returns the explanations so far.
      reduce_supersets: whether to also reduce sufficient sets that contain an explanation found at a smaller
        size (static). Such a set is not minimal and usually reduces to a known explanation. On photos, this
        found 25% more explanations with twice as many evaluations. It finds no more if removing patches never
        raises the score and the beam contains all sets.

    Returns:
      A `SearchResult`. A NaN or near-zero score, a baseline that is sufficient on its own, or a search that
      finds nothing is reported as a `Status` in the result, not as an error.

    Raises:
      TypeError, ValueError: if shapes or options are invalid, a concrete threshold is outside (0, 1], or the
        image, baseline or proposal contains NaN.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough: Structured Attention Graphs for
      Image Classification. NeurIPS 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image, black = jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3))
      >>> corners = lambda images: jnp.maximum(images[:, 0, 0, 0], images[:, 7, 7, 0] * images[:, 0, 7, 0])
      >>> result = jx.sag.search(corners, image, black, grid=2, beam_width=8)
      >>> [result.patches(row) for row in range(len(result))]
      [[0], [1, 3]]
    """
    image = as_image(image)
    rows, cols = as_grid(grid, image.shape, default=7)
    patches, width = rows * cols, check_positive_int(beam_width, "beam_width")
    priority = None if proposal is None else _as_proposal(proposal, (rows, cols))
    proposed = _candidates(candidates, patches, priority is not None)
    largest = min(patches, check_positive_int(max_size, "max_size"))
    settings = _SearchSettings(
        grid=(rows, cols),
        beam_width=width,
        candidates=proposed,
        max_size=largest,
        max_explanations=check_positive_int(max_explanations, "max_explanations"),
        max_evaluations=_budget(max_evaluations, patches, largest * width * proposed),
        reduce_supersets=bool(reduce_supersets),
        batch_size=check_batch_size(batch_size),
    )
    problem = _SearchProblem(
        score=as_pytree(score),
        scene=Scene(image, as_baseline(baseline, image)),
        proposal=jnp.zeros(patches, jnp.float32) if priority is None else priority,
        threshold=as_share(threshold, "threshold"),
        min_score=as_number(min_score, "min_score"),
    )
    return _search(problem, settings=settings)


def _as_proposal(proposal: Array, grid: tuple[int, int]) -> Array:
    priority = jnp.asarray(proposal, jnp.float32)
    if priority.shape not in (grid, (grid[0] * grid[1],)):
        raise ValueError(
            f"proposal must have shape {grid} or ({grid[0] * grid[1]},), one number per patch, "
            f"got {priority.shape}."
        )
    check_finite(priority, "proposal")
    return priority.reshape(-1)


def _candidates(candidates: int | None, patches: int, has_proposal: bool) -> int:
    """Return the number of extensions per set in the beam."""
    if candidates is None:
        return min(patches, _CANDIDATES) if has_proposal else patches
    if not has_proposal:
        raise ValueError("candidates requires a proposal map: pass proposal=, or omit candidates.")
    return min(patches, check_positive_int(candidates, "candidates"))


def _budget(max_evaluations: int | None, patches: int, successor_count: int) -> int:
    """Return the evaluation budget; the default covers all successors and three times as many removals."""
    if max_evaluations is None:
        generous = 2 + 4 * successor_count
        return generous if patches > 30 else min(generous, 2**patches)  # all sets of a small grid
    return check_int_from(2, max_evaluations, "max_evaluations")  # at least the image and the baseline


@partial(jax.jit, static_argnames="settings")
def _search(problem: _SearchProblem, *, settings: _SearchSettings) -> SearchResult:
    sizes = jnp.arange(settings.max_size + 1, dtype=jnp.int32)
    step = partial(_search_size, settings, problem)
    end, history = jax.lax.scan(step, _initial_state(settings, problem.proposal.shape[0]), sizes)
    return _result(settings, problem, end, history)


def _initial_state(settings: _SearchSettings, patches: int) -> _SearchState:
    rows, groups = settings.max_explanations, settings.group_size
    false, nan, zero = jnp.zeros((), bool), jnp.full((), jnp.nan, jnp.float32), jnp.zeros((), jnp.int32)

    def repeat(value: Array, *shape: int) -> Array:
        return jnp.broadcast_to(value, shape)

    return _SearchState(
        beam=repeat(false, settings.beam_width, patches),
        alive=repeat(~false, settings.beam_width),
        phase=zero,
        queue=_Queue(
            sets=repeat(false, settings.proposed, patches),
            scores=repeat(nan, settings.proposed),
            order=repeat(zero, settings.proposed + groups - 1),
            length=zero,
            start=zero,
        ),
        group=Group(
            sets=repeat(false, groups, patches),
            scores=repeat(nan, groups),
            member=repeat(false, groups),
            active=repeat(false, groups),
        ),
        buffer=_ExplanationBuffer(sets=repeat(false, rows, patches), scores=repeat(nan, rows), used=zero),
        memory=empty_memory(settings.max_evaluations, patches),
        image_score=nan,
        baseline_score=nan,
        best_score=nan,
        levels=zero,
    )


def _has_room(settings: _SearchSettings, state: _SearchState) -> Array:
    return (state.buffer.used < settings.max_explanations) & ~state.memory.overdrawn


# ---------------------------------------------------------------------------------------------------------
# One size


def _search_size(
    settings: _SearchSettings, problem: _SearchProblem, state: _SearchState, size: Array
) -> tuple[_SearchState, SearchHistory]:
    """Score the sets of one size, reduce those that are sufficient, and choose the next beam."""
    unfinished = jnp.any(state.alive) & _has_room(settings, state)
    start = state._replace(
        phase=jnp.where(unfinished, _EXPAND, _DONE).astype(jnp.int32),
        best_score=jnp.full_like(state.best_score, jnp.nan),
        levels=jnp.where(unfinished, size, state.levels),
    )
    end = jax.lax.while_loop(
        lambda state: state.phase != _DONE, partial(_score_batch, settings, problem, size), start
    )
    row = SearchHistory(size, end.best_score / end.image_score, end.buffer.used, end.memory.used)
    return end, row


def _score_batch(
    settings: _SearchSettings, problem: _SearchProblem, size: Array, state: _SearchState
) -> _SearchState:
    """Score the batch of the current phase, and update the state."""
    expanding = state.phase == _EXPAND
    expanded = _expansion(settings, problem, size, state)
    removed = removals(state.group, settings.max_size)
    count = max(len(expanded[1]), len(removed[1]))
    sets, wanted = (
        jnp.where(expanding, _pad(larger, count), _pad(smaller, count))
        for larger, smaller in zip(expanded, removed, strict=True)
    )
    # Under vmap, a finished search still runs along with the others, but must not call the model.
    wanted = wanted & (state.phase != _DONE)
    memory, scored = score_sets(
        problem.score,
        problem.scene,
        state.memory,
        sets,
        wanted,
        grid=settings.grid,
        batch_size=settings.batch_size,
    )
    state = jax.lax.cond(
        expanding,
        partial(_after_expansion, settings, problem, size),
        partial(_after_removals, settings, problem),
        state._replace(memory=memory),
        sets,
        scored,
    )
    # A batch that was not scored ends the search; sets that are still active at that point are not minimal.
    finished = ~jnp.any(state.group.active) | memory.overdrawn
    return jax.tree_util.tree_map(partial(jnp.where, finished), _next_group(settings, state), state)


def _pad(rows: Array, count: int) -> Array:
    return jnp.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1))


def _expansion(
    settings: _SearchSettings, problem: _SearchProblem, size: Array, state: _SearchState
) -> tuple[Array, Array]:
    """Return the sets of one size to score and which of them exist: bool [M, P], bool [M].

    At size 0, these are the empty set (the baseline) and the set of all patches (the image).
    """
    count, patches = settings.proposed, problem.proposal.shape[0]
    larger, unused = successors(state.beam, problem.proposal, settings.candidates)
    exists = unused & jnp.repeat(state.alive, settings.candidates)
    rows = jnp.arange(count)
    references = jnp.broadcast_to((rows == 1)[:, None], (count, patches))
    return (
        jnp.where(size == 0, references, _pad(larger, count)),
        jnp.where(size == 0, rows < 2, _pad(exists, count)),
    )


def _after_expansion(
    settings: _SearchSettings,
    problem: _SearchProblem,
    size: Array,
    state: _SearchState,
    sets: Array,
    scored: SetScores,
) -> _SearchState:
    """Queue the sufficient sets of one size, and make the best of the others the next beam."""
    count = settings.proposed
    words, scores, first = (part[:count] for part in scored)
    at_start = size == 0
    image_score = jnp.where(at_start, scores[1], state.image_score)
    # At size 0, exclude the full image; an image with a near-zero score has no explanations.
    eligible = first & ~(at_start & (jnp.arange(count) == 1)) & (image_score >= problem.min_score)
    reaches_threshold = scores >= problem.threshold * image_score
    # Sets whose score is not finite are not expanded, except for the empty set.
    insufficient = eligible & ~reaches_threshold & (at_start | ~jnp.isnan(scores))
    sufficient = eligible & reaches_threshold
    if not settings.reduce_supersets:
        filled = jnp.arange(settings.max_explanations) < state.buffer.used
        sufficient = sufficient & ~contains_any(words, pack(state.buffer.sets), filled)
    order = best_first(jnp.where(sufficient, 0, jnp.where(insufficient, 1, 2)), scores, words)
    waiting = jnp.sum(sufficient, dtype=jnp.int32)
    padded = jnp.pad(order, (0, max(settings.beam_width, settings.group_size - 1)), mode="edge")
    best = jnp.max(jnp.where(eligible & ~jnp.isnan(scores), scores, -jnp.inf))
    return state._replace(
        beam=sets[jax.lax.dynamic_slice_in_dim(padded, waiting, settings.beam_width)],
        alive=jnp.arange(settings.beam_width) < jnp.sum(insufficient),
        queue=_Queue(
            sets=sets[:count],
            scores=scores,
            order=padded[: len(state.queue.order)],
            length=waiting,
            start=jnp.zeros_like(waiting),
        ),
        image_score=image_score,
        baseline_score=jnp.where(at_start, scores[0], state.baseline_score),
        best_score=jnp.where(jnp.isfinite(best), best, jnp.nan),
    )


def _after_removals(
    settings: _SearchSettings,
    problem: _SearchProblem,
    state: _SearchState,
    sets: Array,
    scored: SetScores,
) -> _SearchState:
    """From each set in the group, remove a patch whose removal leaves the set sufficient."""
    count = settings.group_size * settings.max_size
    sufficient_score = problem.threshold * state.image_score
    group = remove_best(state.group, sets[:count], scored.scores[:count], sufficient_score)
    # If the batch was not scored, its sets stay active.
    active = jnp.where(state.memory.overdrawn, state.group.active, group.active)
    return state._replace(group=group._replace(active=active))


def _next_group(settings: _SearchSettings, state: _SearchState) -> _SearchState:
    """Record the group's minimal sets and take the next group from the queue, if there is one.

    A group is no larger than the explanation buffer, so few sets are reduced that do not fit into the buffer.
    """
    queue, size = state.queue, settings.group_size
    state = state._replace(buffer=_record(state.buffer, state.group))
    waiting = queue.start + jnp.arange(size) < queue.length
    member = waiting & _has_room(settings, state)
    rows = jax.lax.dynamic_slice_in_dim(queue.order, queue.start, size)
    return state._replace(
        phase=jnp.where(jnp.any(member), _REDUCE, _DONE).astype(jnp.int32),
        queue=queue._replace(start=queue.start + size),
        group=Group(queue.sets[rows], queue.scores[rows], member, active=member),
    )


def _record(buffer: _ExplanationBuffer, group: Group) -> _ExplanationBuffer:
    """Add a group's new minimal sets to the buffer, up to its capacity."""
    capacity, words, minimal = buffer.sets.shape[0], pack(group.sets), group.minimal
    filled = jnp.arange(capacity) < buffer.used
    known = find_rows(words, pack(buffer.sets), filled) < capacity
    first = find_rows(words, words, minimal) == jnp.arange(len(words))
    new = minimal & first & ~known
    rows = jnp.where(new, buffer.used + places(new), capacity)
    return _ExplanationBuffer(
        sets=buffer.sets.at[rows].set(group.sets, mode="drop"),
        scores=buffer.scores.at[rows].set(group.scores, mode="drop"),
        used=jnp.minimum(buffer.used + jnp.sum(new, dtype=jnp.int32), capacity),
    )


# ---------------------------------------------------------------------------------------------------------
# The result


def _result(
    settings: _SearchSettings, problem: _SearchProblem, end: _SearchState, history: SearchHistory
) -> SearchResult:
    buffer = end.buffer
    valid = jnp.arange(settings.max_explanations) < buffer.used
    sizes = jnp.sum(buffer.sets, axis=1, dtype=jnp.int32)
    order = best_first(jnp.where(valid, sizes, end.beam.shape[1] + 1), buffer.scores, pack(buffer.sets))
    scores = buffer.scores[order]
    return SearchResult(
        explanations=buffer.sets[order],
        scores=scores,
        relative=scores / end.image_score,
        sizes=sizes[order],
        valid=valid,
        image_score=end.image_score,
        baseline_score=end.baseline_score,
        threshold=problem.threshold,
        levels=end.levels,
        evaluations=end.memory.used,
        status=_status(settings, problem, end),
        history=history,
        grid=settings.grid,
    )


def _status(settings: _SearchSettings, problem: _SearchProblem, end: _SearchState) -> Array:
    """Return the first status that applies."""
    conditions = (
        (end.memory.not_finite, Status.NOT_FINITE),
        (~(end.image_score >= problem.min_score), Status.LOW_SCORE),
        ((end.buffer.used == 1) & (end.levels == 0), Status.BASELINE_SUFFICIENT),
        (end.memory.overdrawn, Status.BUDGET_SPENT),
        (end.buffer.used == settings.max_explanations, Status.BUFFER_FULL),
        (end.buffer.used == 0, Status.NONE_FOUND),
    )
    status = jnp.int32(Status.OK)
    for flag, value in reversed(conditions):
        status = jnp.where(flag, jnp.int32(value), status)
    return status


# ---------------------------------------------------------------------------------------------------------
# The proposal map


def proposal_map(
    score: Score,
    image: Array,
    baseline: Array | None = None,
    *,
    batch_size: int | None = None,
    grid: Pair = 7,
    n_steps: int = 16,
) -> Array:
    """Return each patch's integrated gradient, an estimate of its effect on the score: float32 [rows, cols].

    This is the score's gradient with respect to the patches, averaged over the straight path from the
    baseline to the image; I-GOS starts from the same gradient. On photos, this map led to more and smaller
    explanations than the I-GOS mask after the published two iterations. That mask remains 1 almost everywhere
    if the classifier is confident.

    Args:
      score: the explained score, images [N, H, W, C] -> [N].
      image: [H, W, C], in model space.
      baseline: [H, W, C]; default: the blurred image.
      batch_size: images per model call (static); default: chosen for the platform.
      grid: rows and columns of patches (static).
      n_steps: number of forward and backward passes (static).

    Raises:
      TypeError, ValueError: if shapes or options are invalid.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> corner = lambda images: images[:, 0, 0, 0]
      >>> jx.sag.proposal_map(corner, jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3)), grid=2).round(2).tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    image = as_image(image)
    shape, steps = as_grid(grid, image.shape, default=7), check_positive_int(n_steps, "n_steps")
    scene = Scene(image, as_baseline(baseline, image))
    return _integrated_patches(as_pytree(score), scene, shape, steps, check_batch_size(batch_size))


@partial(jax.jit, static_argnames=("grid", "n_steps", "batch_size"))
def _integrated_patches(
    score: Score, scene: Scene, grid: tuple[int, int], n_steps: int, batch_size: int | None
) -> Array:
    nodes, weights = paths.midpoint(n_steps)
    # `_scaled_patches` multiplies the patches, and so the gradient, by the node; the division reverses this.
    return funnel.value_and_grad(
        score,
        _scaled_patches,
        jnp.ones(grid, jnp.float32),
        scene,
        nodes,
        weights / nodes,
        batch_size=batch_size,
    ).grads


def _scaled_patches(patches: Array, scene: Scene, node: Array) -> Array:
    image, baseline = scene
    return blend(image, baseline, upsample(node * patches, (image.shape[0], image.shape[1])))
