"""Fitting an SRAE to a layer's features and a class's logits."""

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxplain.checks import check_choice, check_positive_int
from jaxplain.xnn import training
from jaxplain.xnn.objective import Data, Parts, Schedule, Weights
from jaxplain.xnn.srae import SRAE, Activation, Head, Output, SRAEConfig
from jaxplain.xnn.training import Trained

Over = Literal["x-features", "images"]
DEFAULT_WEIGHTS = (20.0, 15.0, 40.0, 60.0)
SPREAD = 10.0  # deviation of the standardised logits: published weights belong to scores from 0 to 50
_FLOOR = 0.5  # of the features' median deviation, which every feature's scale has besides its own
_SECOND = 0.3  # of the largest mean contribution, which the second must reach
_LOUDER, _SOFTER = 1.2, 0.8  # what a retry does to the weights of reconstruction and pull-away


class Status(IntEnum):
    """How a fit ended."""

    OK = 0
    NOT_FINITE = 1  # features, logits or the fit itself hold NaN or infinity
    CONSTANT_LOGITS = 2  # nothing to explain
    NOT_ACCEPTED = 3  # no round met the retry rule; the best one is returned

    @property
    def message(self) -> str:
        """What it means, for people."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OK: "ok",
    Status.NOT_FINITE: "features, logits or the fit hold NaN or infinity; check features and logits, or fit "
    "with another key",
    Status.CONSTANT_LOGITS: "the logit is the same on all images, so there is nothing to explain: add images "
    "that differ, or choose another class",
    Status.NOT_ACCEPTED: "one x-feature carries nearly everything, in every round; the best one was kept: "
    "try more images, another n_features or another key",
}


class FitResult(NamedTuple):
    """A fitted SRAE and how it came about; a pytree, so that fits can be vmapped."""

    srae: SRAE
    status: Array  # int32 [], a `Status`
    rounds: Array  # int32 [], that were trained
    weights: Weights  # of the round that is returned
    best_epoch: Array  # int32 [], of that round
    training: Parts  # [epochs], means over batches; NaN after the fit stood still
    validation: Parts  # [epochs]


class _Round(NamedTuple):
    number: Array  # int32 [], rounds done
    weights: Weights  # of the next one
    used: Weights  # of the best so far
    best: Trained
    accepted: Array  # bool []
    score: Array  # [], of the best so far: the second contribution as a share of the first


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
    over: Over = "x-features",
    widths: tuple[int, ...] = (800, 100),
    activation: Activation = "relu",
    output: Output = "relu",
    head: Head = "positive",
    progress: Callable[[Array], None] | None = None,
) -> FitResult:
    """Fit an SRAE: few x-features that say a class's logit, differ from each other and rebuild some features.

    Pretrains layer by layer, places the x-features, regresses the head and descends on all parameters at
    once, `epochs` times over the images; where the published rule does not accept the result (the second
    x-feature's mean contribution reaches 0.3 of the first's), it trains again with reconstruction weighted
    1.2 times and pull-away 0.8 times, up to `max_rounds` rounds. All of it is one compiled program under
    `jax.jit`, and `jax.vmap` works over keys and loss weights.

    Features and logits are standardised first, so that weights mean the same on every model.

    Args:
      features: [N, D], a layer's activations. Of non-negative ones, as behind a ReLU, take `output="relu"`.
      logits: [N] or [N, K], the class's logit, or those of several classes.
      key: of the weights, the order, dropout and mixing.
      n_features: n, the x-features.
      weights: of faithfulness, reconstruction, pull-away and (0 if left out) dominance; traced numbers. The
        published ones are (1, 15, 5). The default was chosen on a dozen species of birds: faithful,
        several x-features an image, and not parallel.
      q: of `sparse_reconstruction_loss`.
      validation: share of the images held out, by whose loss the best epoch is chosen.
      epochs: of the descent.
      pretrain_epochs: of each layer; 0 leaves pretraining out.
      batch_size: images a step, at most all.
      learning_rate: of Adam; a tenth after every `decay_every` epochs.
      decay_every: epochs.
      weight_decay: added to the gradient.
      patience: epochs without improvement on the held-out images after which the fit stands still; None: all
        epochs are run.
      mixing: how far mixtures of images reach; 0 for none. See `jaxplain.xnn.training.mix`.
      jitter: deviations of noise on the features, whose logits follow by a linear regression; 0 for none. See
        `jaxplain.xnn.training.slopes`.
      max_rounds: of training; 1 for no retry.
      over: rows of the pull-away loss, "x-features" or "images".
      widths: of the layers between features and x-features.
      activation: of those layers.
      output: of the decoder; "linear" for features that may be negative.
      head: "positive", or "signed" as published, where x-features may speak against the class too.
      progress: called on the host with the number of each epoch, from 0 and again in each round, for a bar
        such as `tqdm`'s. A new function object is a new compilation.

    Returns:
      A `FitResult`.

    Raises:
      ValueError: shapes that do not fit; and, where the arrays are concrete, values that are not finite, or
        negative features for `output="relu"`.

    References:
      Fuxin et al. From Heatmaps to Structural Explanations of Image Classifiers. Applied AI Letters 2021.

    Example:
      >>> import jax
      >>> features = jax.nn.relu(jax.random.normal(jax.random.key(0), (64, 12)))
      >>> found = fit(features, features[:, 0], key=jax.random.key(1), widths=(8,), n_features=2, epochs=2)
      >>> found.srae(features).shape
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
    held = int(validation * len(features))
    if not 0 < validation < 1 or held < 1 or len(features) - held < 2:
        raise ValueError(
            f"validation must hold out one image and leave two of {len(features)}, got {validation}."
        )
    config = SRAEConfig(features.shape[1], n_features, logits.shape[1], widths, activation, output, head)
    schedule = Schedule(
        epochs, pretrain_epochs, batch_size, learning_rate, decay_every, weight_decay,
        epochs if patience is None else patience, mixing, jitter, over, progress,
    )  # fmt: skip
    strengths = Weights(*(jnp.asarray(number, jnp.float32) for number in numbers))
    return _fit(config, schedule, max_rounds, held, features, logits, strengths, jnp.float32(q), key)


def _check(features: Array, logits: Array, output: Output) -> None:
    if features.ndim != 2 or logits.ndim != 2 or len(features) != len(logits):
        raise ValueError(
            f"features must be [N, D] and logits [N] or [N, K], got {features.shape} and {logits.shape}."
        )
    for name, values in (("features", features), ("logits", logits)):
        if not isinstance(values, jax.core.Tracer) and not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite; {int((~np.isfinite(values)).sum())} values are not.")
    if output == "relu" and not isinstance(features, jax.core.Tracer) and np.min(np.asarray(features)) < 0:
        raise ValueError(
            "features are negative in places, which a ReLU cannot rebuild: take output='linear'."
        )


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _fit(
    config: SRAEConfig, schedule: Schedule, max_rounds: int, held: int, features: Array, logits: Array,
    weights: Weights, q: Array, key: Array,
) -> FitResult:  # fmt: skip
    split_key, key = jax.random.split(key)
    order = jax.random.permutation(split_key, len(features))
    checked, train = (Data(features[rows], logits[rows]) for rows in (order[:held], order[held:]))
    blank = _build(config, train, key)
    train, checked = _standardized(blank, train), _standardized(blank, checked)
    parts: Any = nnx.split(blank, nnx.Param, ...)
    graphdef, _, constants = parts

    def once(state: _Round) -> _Round:
        init_key, train_key = jax.random.split(jax.random.fold_in(key, state.number))
        params = nnx.split(SRAE(config, rngs=nnx.Rngs(init_key)), nnx.Param, ...)[1]
        trained = training.train(
            graphdef, params, constants, train, checked, state.weights, q, train_key, schedule
        )
        score, accepted = _accept(nnx.merge(graphdef, trained.params, constants), train)
        better = accepted | (score > state.score) | (state.number == 0)

        def choose(one: Any, other: Any) -> Any:
            return jax.tree_util.tree_map(partial(jnp.where, better), one, other)

        return _Round(
            state.number + 1,
            state.weights._replace(
                reconstruction=_LOUDER * state.weights.reconstruction,
                pull_away=_SOFTER * state.weights.pull_away,
            ),
            choose(state.weights, state.used),
            choose(trained, state.best),
            accepted,
            jnp.where(better, score, state.score),
        )

    first = _Round(
        jnp.int32(0), weights, weights, _nothing(config, schedule), jnp.bool_(False), jnp.float32(-1)
    )
    end = jax.lax.while_loop(lambda state: ~state.accepted & (state.number < max_rounds), once, first)
    srae: SRAE = nnx.merge(graphdef, end.best.params, constants)
    status, best = _status(srae, train, end.accepted), end.best
    return FitResult(srae, status, end.number, end.used, best.best_epoch, best.training, best.validation)


def _status(srae: SRAE, train: Data, accepted: Array) -> Array:
    finite = jnp.isfinite(srae.read(train.features).logits).all() & jnp.isfinite(train.logits).all()
    constant = (train.logits.max(0) == train.logits.min(0)).any()
    status = jnp.where(accepted, Status.OK, Status.NOT_ACCEPTED)
    status = jnp.where(constant, Status.CONSTANT_LOGITS, status)
    return jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32)


def _build(config: SRAEConfig, raw: Data, key: Array) -> SRAE:
    """An untrained SRAE that standardises as these images ask; what never varies keeps its scale.

    Divided by its deviation alone, a feature that hardly ever stirs would now and then be 60 deviations away
    and throw the logit off; so the typical deviation counts too.
    """
    srae = SRAE(config, rngs=nnx.Rngs(key))
    spread, logit_spread = raw.features.std(0), raw.logits.std(0) / SPREAD
    srae.feature_shift[...] = raw.features.mean(0)
    scale = jnp.hypot(spread, _FLOOR * jnp.median(spread))
    srae.feature_scale[...] = jnp.where(scale > 0, scale, 1)
    srae.logit_shift[...] = raw.logits.mean(0)
    srae.logit_scale[...] = jnp.where(logit_spread > 0, logit_spread, 1)
    return srae


def _standardized(srae: SRAE, raw: Data) -> Data:
    return Data(srae.standardize(raw.features), (raw.logits - srae.logit_shift[...]) / srae.logit_scale[...])


def _accept(srae: SRAE, train: Data) -> tuple[Array, Array]:
    """The second mean contribution as a share of the first, of the worst class, and whether that suffices."""
    means = srae.encode(train.features).mean(0)[:, None] * srae.kernel  # [n, K]
    if means.shape[0] < 2:
        return jnp.float32(1), (means > 0).all()
    largest, second = jax.lax.top_k(means.T, 2)[0].T
    share = jnp.min(jnp.where(largest > 0, second / jnp.where(largest > 0, largest, 1), -1))
    return share, share >= _SECOND


def _nothing(config: SRAEConfig, schedule: Schedule) -> Trained:
    """What stands where no round has been trained."""
    params = nnx.split(SRAE(config, rngs=nnx.Rngs(0)), nnx.Param, ...)[1]
    history = Parts(*(jnp.full(schedule.epochs, jnp.nan) for _ in Parts._fields))
    return Trained(params, history, history, jnp.int32(0))
