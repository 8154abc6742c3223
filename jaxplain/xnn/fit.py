"""Fit an SRAE to a layer's features and a class's logit."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxplain.checks import check_choice, check_finite, check_positive_int, check_where
from jaxplain.explanation import Status
from jaxplain.xnn.losses import LossTerms, LossWeights, TrainingData
from jaxplain.xnn.srae import SRAE, Activation, DecoderOutput, HeadSign, SRAEConfig
from jaxplain.xnn.training import FitSchedule, TrainedRound, TrainingProblem, train_round

PullAwayRows = Literal["x-features", "images"]
DEFAULT_WEIGHTS = (20.0, 15.0, 40.0, 60.0)
LOGIT_STD = 10.0  # standardized logits' deviation; the published weights were chosen for scores from 0 to 50
_FLOOR = 0.5  # fraction of the features' median standard deviation that is added to every feature's scale
_SECOND = 0.3  # minimum of the second largest mean contribution, as a fraction of the largest
_STRONGER, _WEAKER = 1.2, 0.8  # factors per retry for the reconstruction and pull-away weights


class FitResult(NamedTuple):
    """A fitted SRAE with its status and training history; a pytree, so that fits can be vmapped."""

    srae: SRAE
    status: Array  # int32 [], a `jaxplain.Status`: OK, NOT_FINITE, CONSTANT_LOGITS or NOT_ACCEPTED
    rounds: Array  # int32 [], number of training rounds
    weights: LossWeights  # of the returned round
    best_epoch: Array  # int32 [], of the returned round
    training: LossTerms  # [epochs], means over batches; NaN after `patience` was exhausted
    validation: LossTerms  # [epochs]


class _FitState(NamedTuple):
    """State of the loop over rounds."""

    number: Array  # int32 [], rounds completed
    weights: LossWeights  # of the next round
    used: LossWeights  # of the best round so far
    best: TrainedRound
    accepted: Array  # bool []
    share: Array  # [], of the best round so far; see `_second_share`


def fit(
    features: Array,
    logits: Array,
    *,
    key: Array,
    n_features: int = 5,
    weights: tuple[Any, ...] = DEFAULT_WEIGHTS,
    q: Array | float = 100.0,
    validation: float = 0.1,
    epochs: int = 120,
    pretrain_epochs: int = 10,
    batch_size: int = 50,
    learning_rate: float = 1e-3,
    decay_every: int = 40,
    weight_decay: float = 1e-4,
    patience: int | None = None,
    mixing: float = 0.3,
    jitter: float = 0.5,
    max_rounds: int = 5,
    over: PullAwayRows = "x-features",
    widths: tuple[int, ...] = (800, 100),
    activation: Activation = "relu",
    output: DecoderOutput = "relu",
    head: HeadSign = "positive",
    progress: Callable[[Array], None] | None = None,
) -> FitResult:
    """Fit an SRAE to a layer's features and a class's logit.

    An SRAE has a few x-features that predict the logit, differ from one another, and reconstruct some of the
    layer's features. This function pretrains layer by layer, initializes the x-features, fits the head by
    regression, and minimizes the loss over all parameters for `epochs` epochs. If the result fails the
    published acceptance rule (the second largest mean contribution of an x-feature must be at least 0.3 times
    the largest), training is repeated with 1.2 times the reconstruction weight and 0.8 times the pull-away
    weight, for up to `max_rounds` rounds. All of this is one compiled program under `jax.jit`, and `jax.vmap`
    works over keys and loss weights.

    Features and logits are standardized first, so that loss weights are comparable across models.

    Args:
      features: [N, D], a layer's activations. Use `output="linear"` if they may be negative.
      logits: logits of one class, [N], or of several classes, [N, K].
      key: random key for initial weights, shuffling, dropout, mixing and jitter.
      n_features: n, the number of x-features.
      weights: loss weights for faithfulness, reconstruction, pull-away and dominance (0 if omitted); may be
        traced. The published weights are (1, 15, 5). The defaults were tuned on a dozen bird species, for
        faithful fits with several x-features per image that are not parallel.
      q: scale of the errors in the reconstruction loss; see `sparse_reconstruction_loss`.
      validation: fraction of the images held out to choose the best epoch.
      epochs: number of epochs of joint training.
      pretrain_epochs: number of pretraining epochs per layer; 0 skips pretraining.
      batch_size: images per step, capped at the number of images.
      learning_rate: Adam's learning rate; divided by 10 every `decay_every` epochs.
      decay_every: epochs per learning rate decay.
      weight_decay: coefficient of the L2 penalty in the gradient.
      patience: number of epochs without improvement on the held-out images after which training stops; None
        disables early stopping.
      mixing: how far mixtures of two images extrapolate beyond them; 0 disables mixing. See
        `jaxplain.xnn.training.mix`.
      jitter: standard deviation of noise added to the features; its effect on the logits is estimated by
        linear regression. 0 disables it. See `jaxplain.xnn.training.logit_gradient`.
      max_rounds: maximum number of training rounds; 1 disables retries.
      over: rows in the pull-away loss, "x-features" or "images".
      widths: widths of the hidden layers between features and x-features.
      activation: activation function of the hidden layers.
      output: output activation of the decoder, "relu" or "linear".
      head: sign of the head's weights: "positive", or "signed" (as published), which lets x-features lower
        the logit.
      progress: callback for a progress bar, called on the host with the index of each epoch, which restarts
        at 0 in each round. A new function object triggers recompilation.

    Returns:
      A `FitResult`.

    Raises:
      ValueError: if shapes do not match; for concrete arrays, also if values are not finite, or if features
        are negative with `output="relu"`.

    References:
      Fuxin et al. From Heatmaps to Structural Explanations of Image Classifiers. Applied AI Letters 2021.

    Example:
      >>> import jax
      >>> features = jax.nn.relu(jax.random.normal(jax.random.key(0), (64, 12)))
      >>> result = fit(features, features[:, 0], key=jax.random.key(1), widths=(8,), n_features=2, epochs=2)
      >>> result.srae(features).shape
      (64, 1)
    """
    logits = logits[:, None] if logits.ndim == 1 else logits
    _check(features, logits, output)
    numbers = (*weights, 0.0) if len(weights) == 3 else weights
    if len(numbers) != 4:
        raise ValueError(f"weights must be three or four numbers, got {len(weights)}.")
    check_choice(over, ("x-features", "images"), "over")
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("max_rounds", max_rounds)):
        check_positive_int(value, name)
    held_out = int(validation * len(features))
    if not 0 < validation < 1 or held_out < 1 or len(features) - held_out < 2:
        raise ValueError(
            f"validation must hold out at least 1 of {len(features)} images and leave at least 2, "
            f"got {validation}."
        )
    config = SRAEConfig(features.shape[1], n_features, logits.shape[1], widths, activation, output, head)
    patience = epochs if patience is None else patience
    schedule = FitSchedule(
        epochs, pretrain_epochs, batch_size, learning_rate, decay_every, weight_decay, patience, mixing,
        jitter, over, progress,
    )  # fmt: skip
    strengths = LossWeights(*(jnp.asarray(number, jnp.float32) for number in numbers))
    return _fit(
        _FitPlan(config, schedule, max_rounds, held_out), features, logits, strengths, jnp.float32(q), key
    )


def _check(features: Array, logits: Array, output: DecoderOutput) -> None:
    if features.ndim != 2 or logits.ndim != 2 or len(features) != len(logits):
        raise ValueError(
            f"features must be [N, D] and logits [N] or [N, K], got {features.shape} and {logits.shape}."
        )
    check_finite(features, "features")
    check_finite(logits, "logits")
    if output == "relu":
        message = "some features are negative, which a ReLU cannot reconstruct: pass output='linear'."
        check_where(lambda values: values >= 0, features, message)


class _FitPlan(NamedTuple):
    """The static arguments of a fit."""

    config: SRAEConfig
    schedule: FitSchedule
    max_rounds: int
    held_out: int  # number of validation images


@partial(jax.jit, static_argnums=0)
def _fit(
    plan: _FitPlan, features: Array, logits: Array, weights: LossWeights, q: Array, key: Array
) -> FitResult:
    split_key, key = jax.random.split(key)
    order = jax.random.permutation(split_key, len(features))
    raw = TrainingData(features, logits)
    validation, train = (
        jax.tree_util.tree_map(lambda part: part[rows], raw)  # noqa: B023  called immediately
        for rows in (order[: plan.held_out], order[plan.held_out :])
    )
    blank = _blank(plan.config, train)
    train, validation = _standardized(blank, train), _standardized(blank, validation)

    def one_round(state: _FitState) -> _FitState:
        init_key, train_key = jax.random.split(jax.random.fold_in(key, state.number))
        srae = _with_constants(SRAE(plan.config, rngs=nnx.Rngs(init_key)), blank)
        problem = TrainingProblem(train, validation, state.weights, q, plan.schedule)
        trained = train_round(srae, problem, train_key)
        return _after_round(state, trained, *_second_share(trained.srae, train))

    start = _FitState(
        number=jnp.int32(0),
        weights=weights,
        used=weights,
        best=_untrained(blank, plan.schedule),
        accepted=jnp.bool_(False),
        share=jnp.float32(-1),
    )
    end = jax.lax.while_loop(
        lambda state: ~state.accepted & (state.number < plan.max_rounds), one_round, start
    )
    best = end.best
    status = _status(best.srae, train, end.accepted)
    return FitResult(best.srae, status, end.number, end.used, best.best_epoch, best.training, best.validation)


def _after_round(state: _FitState, trained: TrainedRound, share: Array, accepted: Array) -> _FitState:
    """Retain the better of two rounds and update the weights for the next round."""
    better = accepted | (share > state.share) | (state.number == 0)

    def choose(new: Any, old: Any) -> Any:
        return jax.tree_util.tree_map(partial(jnp.where, better), new, old)

    return _FitState(
        number=state.number + 1,
        weights=state.weights._replace(
            reconstruction=_STRONGER * state.weights.reconstruction,
            pull_away=_WEAKER * state.weights.pull_away,
        ),
        used=choose(state.weights, state.used),
        best=choose(trained, state.best),
        accepted=accepted,
        share=jnp.where(better, share, state.share),
    )


def _second_share(srae: SRAE, train: TrainingData) -> tuple[Array, Array]:
    """Return the worst class's ratio of second-largest to largest mean contribution, and if it passes."""
    means = srae.encode(train.features).mean(0)[:, None] * srae.kernel  # [n, K]
    if means.shape[0] < 2:
        return jnp.float32(1), (means > 0).all()
    largest, second = jax.lax.top_k(means.T, 2)[0].T
    share = jnp.min(jnp.where(largest > 0, second / jnp.where(largest > 0, largest, 1), -1))
    return share, share >= _SECOND


def _status(srae: SRAE, train: TrainingData, accepted: Array) -> Array:
    finite = jnp.isfinite(srae.forward(train.features).logits).all() & jnp.isfinite(train.logits).all()
    constant = (train.logits.max(0) == train.logits.min(0)).any()
    status = jnp.where(accepted, Status.OK, Status.NOT_ACCEPTED)
    status = jnp.where(constant, Status.CONSTANT_LOGITS, status)
    return jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32)


def _blank(config: SRAEConfig, raw: TrainingData) -> SRAE:
    """Return an SRAE with zero parameters, whose constants standardize features and logits.

    Features and logits that never vary have scale 1. The scale also includes the median standard deviation.
    Otherwise, a rarely active feature could occasionally lie 60 standard deviations from the mean and
    dominate the logit.
    """
    shapes = nnx.eval_shape(lambda: SRAE(config, rngs=nnx.Rngs(0)))  # initializers are slow to compile
    srae = jax.tree_util.tree_map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    spread, logit_spread = raw.features.std(0), raw.logits.std(0) / LOGIT_STD
    scale = jnp.hypot(spread, _FLOOR * jnp.median(spread))
    srae.feature_shift[...] = raw.features.mean(0)
    srae.feature_scale[...] = jnp.where(scale > 0, scale, 1)
    srae.logit_shift[...] = raw.logits.mean(0)
    srae.logit_scale[...] = jnp.where(logit_spread > 0, logit_spread, 1)
    return srae


def _with_constants(srae: SRAE, other: SRAE) -> SRAE:
    """Replace the constants of `srae` with those of `other`, and return it."""
    for name in ("feature_shift", "feature_scale", "logit_shift", "logit_scale"):
        getattr(srae, name)[...] = getattr(other, name)[...]
    return srae


def _standardized(srae: SRAE, raw: TrainingData) -> TrainingData:
    logits = (raw.logits - srae.logit_shift[...][None]) / srae.logit_scale[...][None]
    return TrainingData(srae.standardize(raw.features), logits)


def _untrained(blank: SRAE, schedule: FitSchedule) -> TrainedRound:
    """Return a placeholder for the trained round before the first one."""
    history = LossTerms(*(jnp.full(schedule.epochs, jnp.nan, jnp.float32) for _ in LossTerms._fields))
    return TrainedRound(blank, history, history, jnp.int32(0))
