"""The compiled program of a run: one step explains a batch of images, each device its share of them.

Images are sharded over the data axis of a mesh, the model's parameters replicated. Images never influence
each other, so a program needs no communication, and every host compiles for its own devices only: hosts do
not wait for each other.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxplain import funnel
from jaxplain.batch.dataset import Example
from jaxplain.batch.store import Leaf, leaves_of
from jaxplain.jobs.photos import check_seed

DATA = "data"  # name of the mesh axis over which images are sharded
NO_TARGET = -1  # stands for "the top prediction" inside the program


class Explain(Protocol):
    """A pure function of one image, traced by JAX."""

    def __call__(self, model: Any, image: Array, target: Array, key: Array, /) -> Any:
        """What to keep of one image.

        Args:
          model: the classifier (or score) of the run.
          image: float32 [H, W, C], model space.
          target: int32 [], the class; of a score, what the example says.
          key: the image's own random key.

        Returns:
          A pytree of arrays, of the same shapes for every image.
        """
        ...


class Explained(NamedTuple):
    """What the program returns for a batch of B images."""

    target: Array  # int32 [B], the explained class
    score: Array  # float32 [B], its softmax probability; of a score, its value
    result: Any  # leaves [B, ...]


class HostBatch(NamedTuple):
    """What the program is given: B images, the last of them repeated where there are not so many."""

    images: np.ndarray  # [B, H, W, C], uint8 pixels or float32 in model space
    targets: np.ndarray  # int32 [B]
    words: np.ndarray  # uint32 [B, 2], of the identities


class Program(NamedTuple):
    """A compiled program with the parameters where it wants them."""

    run: Callable[[HostBatch], Explained]  # returns at once, while the devices work
    size: int  # B
    compile_seconds: float


class Inputs(NamedTuple):
    """The shape and kind of every image of a run."""

    shape: tuple[int, ...]  # (H, W, C)
    dtype: str  # "uint8" or "float32"


def default_per_device_batch() -> int:
    """Images a device and step: 1 on a CPU, where more are not faster, 16 on an accelerator."""
    return 1 if jax.default_backend() == "cpu" else 16


def local_mesh(mesh: Mesh | None) -> Mesh:
    """The part of a mesh that is this host's; None: one axis over all its devices.

    Raises:
      ValueError: a mesh of several axes none of which is called "data", or one without devices of this host.
    """
    if mesh is None:
        return Mesh(np.array(jax.local_devices()), (DATA,))
    names = mesh.axis_names
    if DATA not in names and len(names) != 1:
        raise ValueError(f"mesh must have an axis called {DATA!r} or just one axis, got {names}.")
    mine = mesh.local_mesh.devices
    return Mesh(mine, names if DATA in names else (DATA,))


def identity_words(identity: str) -> np.ndarray:
    """What an identity adds to the random key: uint32 [2] of its SHA-256."""
    return np.frombuffer(hashlib.sha256(identity.encode()).digest()[:8], "<u4")


def identity_key(seed: int, identity: str) -> Array:
    """The key that `explain` gets for an image, so that a single one can be explained again.

    Example:
      >>> bool(identity_key(0, "cat.jpg") == identity_key(0, "cat.jpg"))
      True
    """
    check_seed(seed)
    return _key(jnp.uint32(seed), jnp.asarray(identity_words(identity)))


def _key(seed: Array, words: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), words[0]), words[1])


def inputs_of(example: Example) -> Inputs:
    """What kind of image an example holds.

    Raises:
      ValueError, TypeError: it is no image [H, W, C] of uint8 pixels or floats.
    """
    image = np.asarray(example.image)
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"an image must be [H, W, C], got shape {image.shape}.")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"an image must be uint8 pixels or floats in model space, got {image.dtype}.")
    return Inputs(image.shape, "uint8" if image.dtype == np.uint8 else "float32")


def check_model(model: Any, inputs: Inputs) -> None:
    """Raise a TypeError where pixels meet a model that does not know how to normalise them."""
    if inputs.dtype == "uint8" and not hasattr(model, "normalize"):
        raise TypeError(
            "uint8 pixels need a model with normalize(pixels), as those of jaxplain.zoo; for your own, pass "
            "float images in model space."
        )


def result_leaves(explain: Explain, model: Any, inputs: Inputs) -> dict[str, Leaf]:
    """Names, shapes and dtypes of what `explain` returns, without running it.

    Raises:
      ValueError: nothing; or whatever `explain` raises for such an image.
    """
    shapes = jax.eval_shape(partial(_rows, explain), model, jnp.uint32(0), *_shapes(inputs, 1))
    leaves = leaves_of(shapes.result)
    if not leaves:
        raise ValueError(
            "explain returned nothing to keep: it must return arrays, such as a heatmap's saliency."
        )
    return {name: Leaf(leaf.shape[1:], str(leaf.dtype)) for name, leaf in leaves.items()}


def compile_program(
    explain: Explain, model: Any, inputs: Inputs, mesh: Mesh, *, seed: int, per_device_batch: int
) -> Program:
    """Compile a step for the devices of a (local) mesh."""
    size = per_device_batch * mesh.shape[DATA]
    rows, whole = PartitionSpec(DATA), PartitionSpec()
    step = jax.shard_map(
        partial(_rows, explain),
        mesh=mesh,
        in_specs=(whole, whole, rows, rows, rows),
        out_specs=rows,
        check_vma=False,  # nothing is shared between devices that would have to be checked
    )
    sharded = NamedSharding(mesh, rows)
    start = time.perf_counter()
    parameters, seed_array = jax.device_put((model, jnp.uint32(seed)), NamedSharding(mesh, whole))
    given = [jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharded) for one in _shapes(inputs, size)]
    compiled = jax.jit(step).lower(parameters, seed_array, *given).compile()

    def run(batch: HostBatch) -> Explained:
        # The copy to the devices begins while they still work on the batch before.
        return compiled(parameters, seed_array, *jax.device_put(tuple(batch), sharded))

    return Program(run, size, time.perf_counter() - start)


def host_batch(examples: Sequence[Example], inputs: Inputs, size: int) -> HostBatch:
    """Examples as the program takes them; a batch that is not full repeats its last one."""
    full = [*examples, *[examples[-1]] * (size - len(examples))]
    targets = [NO_TARGET if example.target is None else example.target for example in full]
    return HostBatch(
        images=np.stack([np.asarray(example.image, inputs.dtype) for example in full]),
        targets=np.asarray(targets, np.int32),
        words=np.stack([identity_words(example.identity) for example in full]),
    )


def _shapes(inputs: Inputs, size: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    return (
        jax.ShapeDtypeStruct((size, *inputs.shape), inputs.dtype),
        jax.ShapeDtypeStruct((size,), jnp.int32),
        jax.ShapeDtypeStruct((size, 2), jnp.uint32),
    )


def _rows(
    explain: Explain, model: Any, seed: Array, images: Array, targets: Array, words: Array
) -> Explained:
    """One device's share of a batch."""
    seen = model.normalize(images) if images.dtype == jnp.uint8 else images
    outputs = jax.lax.map(
        lambda image: model(image[None])[0], seen, batch_size=min(len(seen), funnel.default_batch_size())
    )
    if outputs.ndim == 2:  # a classifier's logits
        targets = jnp.where(targets == NO_TARGET, jnp.argmax(outputs, axis=1), targets).astype(jnp.int32)
        outputs = jnp.take_along_axis(jax.nn.softmax(outputs), targets[:, None], axis=1)[:, 0]
    result = jax.vmap(lambda image, target, word: explain(model, image, target, _key(seed, word)))(
        seen, targets, words
    )
    return Explained(targets, outputs.astype(jnp.float32), jax.tree_util.tree_map(_storable, result))


def _storable(leaf: Array) -> Array:
    """Zarr has no bfloat16."""
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf
