"""What an SRAE is trained for: data, the weighted loss and its parts, the schedule.

In shapes N is a number of images, D of features, n of x-features, K of classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.xnn.losses import (
    dominance_loss,
    faithfulness_loss,
    pull_away_loss,
    sparse_reconstruction_loss,
)
from jaxplain.xnn.srae import Reading


class Data(NamedTuple):
    """Standardised features and logits."""

    features: Array  # [N, D]
    logits: Array  # [N, K]


class Weights(NamedTuple):
    """What each part of the loss counts."""

    faithfulness: Array  # []
    reconstruction: Array  # []
    pull_away: Array  # []
    dominance: Array  # []


class Parts(NamedTuple):
    """The loss and what it is made of, each before its weight."""

    total: Array  # []
    faithfulness: Array  # []
    reconstruction: Array  # []
    pull_away: Array  # [], summed over classes
    dominance: Array  # [], summed over classes


class Schedule(NamedTuple):
    """Static choices of the descent."""

    epochs: int
    pretrain_epochs: int
    batch_size: int
    learning_rate: float
    decay_every: int  # epochs, after which the learning rate falls to a tenth
    weight_decay: float
    patience: int  # epochs without improvement on validation; then a fit stands still
    mixing: float  # how far mixtures of two images reach beyond them; see `mix`
    jitter: float  # deviations of noise on the features; see `slopes`
    over: str  # rows of the pull-away loss: "x-features" or "images"
    progress: Callable[[Array], None] | None = None  # told the number of every epoch that is done


def measure(reading: Reading, head: Array, data: Data, weights: Weights, q: Array, over: str) -> Parts:
    """The loss of what an SRAE made of a batch; `head` is its kernel [n, K]."""
    contributions = reading.x_features[:, :, None] * head[None]  # [N, n, K]
    vectors = contributions.transpose(2, 1, 0) if over == "x-features" else contributions.transpose(2, 0, 1)
    faithfulness = faithfulness_loss(reading.logits, data.logits)
    reconstruction = sparse_reconstruction_loss(reading.reconstruction, data.features, q)
    pull_away = jnp.sum(jax.vmap(pull_away_loss)(vectors))
    dominance = jnp.sum(jax.vmap(dominance_loss)(contributions.transpose(2, 0, 1)))
    total = (
        weights.faithfulness * faithfulness
        + weights.reconstruction * reconstruction
        + weights.pull_away * pull_away
        + weights.dominance * dominance
    )
    return Parts(total, faithfulness, reconstruction, pull_away, dominance)
