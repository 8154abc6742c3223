"""Where the descent starts and ends: pretraining, placing and reviving x-features, the head, their sizes.

Everything takes and gives the parameters of an SRAE that is split into graph, parameters and constants.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from jaxplain.xnn.losses import is_dead
from jaxplain.xnn.objective import Data, Schedule
from jaxplain.xnn.srae import ACTIVATIONS, OUTPUTS, SRAE, drop_out

_RIDGE = 1e-3  # of a regression, as a share of the inputs' mean square
_SHIFT = 1.5  # deviations; an x-feature starts active on 93% of the images
_REVIVED = 0.1  # weight of an x-feature that starts again, as a share of the mean of those that live


def pretrain(graphdef: Any, params: Any, constants: Any, train: Data, key: Array, schedule: Schedule) -> Any:
    """Greedily: each layer of the encoder with its mirror in the decoder as an auto-encoder of what comes in.

    The last layer, of the x-features, is trained like the others, so that none starts dead.
    """
    if not schedule.pretrain_epochs:
        return params
    srae: SRAE = nnx.merge(graphdef, params, constants)
    values, depth = train.features, len(srae.config.sizes) - 1
    for at in range(depth):
        into, back = srae.encoder[at], srae.decoder[depth - 1 - at]
        last, first = at == depth - 1, at == 0
        forward = jax.nn.relu if last else ACTIVATIONS[srae.config.activation]
        floor = srae.floor if first else jnp.zeros(())
        backward = OUTPUTS[srae.config.output] if first else ACTIVATIONS[srae.config.activation]
        start = (_read(into), _Affine(_read(back).kernel, _read(back).bias + floor))
        dropout = srae.config.dropout if first and not last else 0.0
        layer = _Layer(forward, backward, floor, dropout)
        trained = _pretrain_layer(start, layer, values, jax.random.fold_in(key, at), schedule)
        _write(into, trained[0])
        _write(back, trained[1])
        values = forward(values @ trained[0].kernel + trained[0].bias)
    return nnx.split(srae, nnx.Param, ...)[1]


class _Affine(NamedTuple):
    kernel: Array
    bias: Array


class _Layer(NamedTuple):
    forward: Any
    backward: Any
    floor: Array  # [D] or [], subtracted from what comes back
    dropout: float


def _read(layer: nnx.Linear) -> _Affine:
    assert layer.bias is not None
    return _Affine(layer.kernel[...], layer.bias[...])


def _write(layer: nnx.Linear, values: _Affine) -> None:
    assert layer.bias is not None
    layer.kernel[...] = values.kernel
    layer.bias[...] = values.bias


def _pretrain_layer(
    start: tuple[_Affine, _Affine], layer: _Layer, values: Array, key: Array, schedule: Schedule
) -> tuple[_Affine, _Affine]:
    optimizer = optax.chain(
        optax.add_decayed_weights(schedule.weight_decay), optax.adam(schedule.learning_rate)
    )

    def loss(params: tuple[_Affine, _Affine], batch: Array, key: Array) -> Array:
        into, back = params
        hidden = layer.forward(batch @ into.kernel + into.bias)
        if layer.dropout:
            hidden = drop_out(hidden, layer.dropout, key)
        return jnp.mean((layer.backward(hidden @ back.kernel + back.bias) - layer.floor - batch) ** 2)

    def step(state: Any, work: tuple[Array, Array]) -> tuple[Any, None]:
        params, moments = state
        rows, key = work
        updates, moments = optimizer.update(jax.grad(loss)(params, values[rows], key), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    def epoch(state: Any, key: Array) -> tuple[Any, None]:
        order_key, drop_key = jax.random.split(key)
        rows = batches(order_key, len(values), schedule.batch_size)
        return jax.lax.scan(step, state, (rows, jax.random.split(drop_key, len(rows))))[0], None

    keys = jax.random.split(key, schedule.pretrain_epochs)
    (params, _), _ = jax.lax.scan(epoch, (start, optimizer.init(start)), keys)
    return params


def place_x_features(graphdef: Any, params: Any, constants: Any, train: Data, key: Array) -> Any:
    """Start every x-feature alive and speaking for the logits.

    An auto-encoder's few units have nothing to do with the logit, and some of them are dead: the descent then
    finds one that will do and never wakes the others. Instead each starts as the logit's own direction in the
    layer below (of class k mod K) and as much noise, shifted so that it is active on most images.
    """
    srae: SRAE = nnx.merge(graphdef, params, constants)
    _write(srae.encoder[-1], _starting_layer(srae, train, key))
    return nnx.split(srae, nnx.Param, ...)[1]


def _starting_layer(srae: SRAE, train: Data, key: Array) -> "_Affine":
    """Encoder's last layer, for x-features that are noisy copies of the logits' directions."""
    below = srae.hidden(train.features)
    mean = below.mean(0)
    centred = below - mean
    count, classes = srae.config.n_features, train.logits.shape[1]
    direction = ridge(centred, train.logits - train.logits.mean(0))  # [H, K]
    noise = jax.random.normal(key, (below.shape[1], count)) / jnp.maximum(centred.std(0), _RIDGE)[:, None]

    def unit(kernel: Array) -> Array:
        return kernel / jnp.maximum((centred @ kernel).std(0), _RIDGE)

    kernel = unit(unit(direction)[:, jnp.arange(count) % classes] + unit(noise))
    return _Affine(kernel, _SHIFT - mean @ kernel)


def balance(graphdef: Any, params: Any, constants: Any, train: Data) -> Any:
    """Give every x-feature a root mean square of 1 over the images, and leave what is computed as it is.

    A ReLU passes factors through, so between an x-feature's size and its weights only the product is fitted.
    """
    srae: SRAE = nnx.merge(graphdef, params, constants)
    sizes = jnp.sqrt(jnp.mean(srae.encode(train.features) ** 2, axis=0))
    sizes = jnp.where(sizes > 0, sizes, 1)  # [n]
    last, first, head = (_read(layer) for layer in (srae.encoder[-1], srae.decoder[0], srae.head))
    _write(srae.encoder[-1], _Affine(last.kernel / sizes, last.bias / sizes))
    _write(srae.decoder[0], _Affine(first.kernel * sizes[:, None], first.bias))
    _write(srae.head, _Affine(head.kernel * sizes[:, None], head.bias))
    return nnx.split(srae, nnx.Param, ...)[1]


def revive(graphdef: Any, params: Any, constants: Any, train: Data, key: Array) -> Any:
    """Let dead x-features start again, with a small weight on the logits.

    A ReLU that is 0 everywhere has no slope, so the descent alone never wakes it.
    """
    srae: SRAE = nnx.merge(graphdef, params, constants)
    dead = is_dead(srae.encode(train.features)[:, :, None] * srae.kernel)  # [n]
    old, new = _read(srae.encoder[-1]), _starting_layer(srae, train, key)
    _write(srae.encoder[-1], jax.tree_util.tree_map(partial(jnp.where, dead), new, old))
    fresh = srae.encode(train.features).mean(0) * dead  # [n], mean activation of what was woken
    head = _read(srae.head)
    living = jnp.sum(jnp.abs(head.kernel) * ~dead[:, None], 0) / jnp.maximum(jnp.sum(~dead), 1)
    kernel = jnp.where(dead[:, None], _REVIVED * living, head.kernel)
    _write(srae.head, _Affine(kernel, head.bias - fresh @ kernel))  # the mean logit stays
    return nnx.split(srae, nnx.Param, ...)[1]


def ridge(values: Array, targets: Array) -> Array:
    """Least squares of centred values [N, H] to centred targets [N, K]: [H, K]."""
    gram = values.T @ values
    ridge = _RIDGE * (jnp.trace(gram) / len(gram) + jnp.finfo(gram.dtype).tiny)
    return jnp.linalg.solve(gram + ridge * jnp.eye(len(gram)), values.T @ targets)


def regress_head(graphdef: Any, params: Any, constants: Any, train: Data) -> Any:
    """The head by least squares from the x-features of all images to their logits."""
    srae: SRAE = nnx.merge(graphdef, params, constants)
    x_features = srae.encode(train.features)
    mean, logit_mean = x_features.mean(0), train.logits.mean(0)
    kernel = ridge(x_features - mean, train.logits - logit_mean)
    if srae.config.head == "positive":  # the least weight keeps each in the game
        kernel = jnp.maximum(kernel, 0.1 * jnp.abs(kernel).mean(0))
    _write(srae.head, _Affine(kernel, logit_mean - mean @ kernel))
    return nnx.split(srae, nnx.Param, ...)[1]


def batches(key: Array, count: int, size: int) -> Array:
    """Row numbers of an epoch, each at most once: int32 [batches, size]; what is left over waits."""
    size = min(size, count)
    order = jax.random.permutation(key, count)
    return order[: count // size * size].reshape(-1, size)
