"""The compiled step of a batch run, in which each device explains its share of a batch of images.

Images are sharded along the data axis of a mesh; the model's parameters are replicated. Images are
independent, so a step needs no communication. Each host compiles for its own devices only and explains its
own chunks of the store, so hosts never wait for one another.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxplain import funnel, methods
from jaxplain.checks import check_choice, check_positive_int, check_seed
from jaxplain.explanation import Status
from jaxplain.metrics import insertion_deletion
from jaxplain.perturb import BASELINES, resize_map
from jaxplain.runs.dataset import ImageFormat
from jaxplain.runs.graph_runs import GraphSettings, search_step
from jaxplain.runs.step import explain_step
from jaxplain.runs.store import LeafSpec, ResultStore, leaves_of
from jaxplain.runs.subject import Request, Subject, make_subject, request, subject_keys
from jaxplain.scores import as_logits, class_score, kind_of_probability

DATA = "data"  # name of the mesh axis along which images are sharded
SAG = "sag"
CHOICES = (*methods.METHODS, SAG)  # names accepted by `make_recipe`
_LONGEST_WAIT = 7 * 24 * 3600  # seconds that a finished process waits for the others, at most

# ---------------------------------------------------------------------------------------------------------
# Explaining one image


class ExplainFunction(Protocol):
    """A pure function of one image, traced by JAX."""

    def __call__(self, model: Any, image: Array, target: Array, key: Array, /) -> Any:
        """Return the results to store for one image.

        Args:
          model: the run's classifier or score.
          image: float32 [H, W, C], in model space.
          target: int32 [], the class index; for a score, the example's target.
          key: the image's random key; see `image_key`.

        Returns:
          A pytree of arrays with the same shapes for every image.
        """
        ...


class Recipe:
    """Base class for recipes: frozen dataclasses that explain a `Subject` and whose fields are recorded."""

    baseline: str

    def __call__(self, model: Any, subject: Subject) -> Any:
        """Return the results to store for one image as a pytree of arrays; traced by JAX."""
        raise NotImplementedError


class MapResult(NamedTuple):
    """The results that a `MethodRecipe` stores for an image."""

    importance: Array  # float32 [h, w] at the method's own resolution, high = important
    status: Array  # int32 [], a `jaxplain.Status`
    evaluations: Array  # int32 [], number of images passed through the model; -1 if not counted
    deletion_auc: Array  # float32 [], NaN if there is no map
    insertion_auc: Array  # float32 [], NaN if there is no map


@dataclass(frozen=True)
class MethodRecipe(Recipe):
    """Runs a method from `jaxplain.methods.METHODS` and computes its map's deletion and insertion AUC.

    Args:
      method: name of the method.
      size: number of rows and of columns of the map, for methods that have this option; every map is
        measured at this size.
      baseline: name of the baseline; see `jaxplain.baseline`.
      n_steps: approximate number of points on the deletion and insertion curves.
      options: further options of the method, by name.

    Raises:
      ValueError, TypeError: a name is unknown (the message suggests the nearest) or a number is out of range.
    """

    method: str = "igos++"
    size: int = 28
    baseline: str = "blur"
    n_steps: int = 50
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice(self.method, methods.METHODS, "method")
        check_choice(self.baseline, BASELINES, "baseline")
        check_positive_int(self.size, "size")
        check_positive_int(self.n_steps, "n_steps")
        methods.parameters(methods.METHODS[self.method], self.options)

    def __call__(self, model: Any, subject: Subject) -> MapResult:
        """Explain one image and measure the map."""
        options = {"size": self.size, **self.options}
        explanation = explain_step(self.method, methods.METHODS[self.method], options).run(model, subject)
        measured = resize_map(explanation.importance, (self.size, self.size))
        score = class_score(model, subject.target, kind_of_probability(model))
        curves = insertion_deletion(score, subject.image, subject.baseline, measured, n_steps=self.n_steps)
        usable = (explanation.status == Status.OK) & (jnp.ptp(measured) > 0)
        areas = (jnp.where(usable, area, jnp.nan) for area in (curves.deletion_auc, curves.insertion_auc))
        return MapResult(explanation.importance, explanation.status, explanation.evaluations, *areas)


@dataclass(frozen=True)
class SagRecipe(Recipe):
    """Runs the beam search for minimal sufficient explanations with the settings of `jaxplain sag`.

    Args:
      size: number of rows and of columns of patches.
      baseline: name of the baseline; see `jaxplain.baseline`.
      options: further settings of `jaxplain.runs.graph_runs.GraphSettings`, by name.

    Raises:
      ValueError, TypeError: a name is unknown (the message suggests the nearest) or a number is out of range.
    """

    size: int = 7
    baseline: str = "blur"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive_int(self.size, "size")
        for name in self.options:
            check_choice(name, [item.name for item in fields(GraphSettings)], "option")
        self._settings()

    def _settings(self) -> GraphSettings:
        return GraphSettings(grid=(self.size, self.size), baseline=self.baseline, **self.options)

    def __call__(self, model: Any, subject: Subject) -> Any:
        """Search one image and return a `jaxplain.sag.SearchResult`."""
        return search_step(self._settings()).run(model, subject)


def make_recipe(
    method: str, *, size: int | None = None, baseline: str = "blur", **options: Any
) -> MethodRecipe | SagRecipe:
    """Return the recipe for a registered method or for "sag".

    Args:
      method: name of the method.
      size: number of rows and of columns of the map; default: 28, or 7 (patches per side) for "sag".
      baseline: name of the baseline; see `jaxplain.baseline`.
      **options: further options of the method.

    Raises:
      ValueError, TypeError: a name is unknown (the message suggests the nearest) or a number is out of range.

    Example:
      >>> make_recipe("gradient", size=14).size
      14
    """
    check_choice(method, CHOICES, "method")
    sizes = {} if size is None else {"size": size}
    if method == SAG:
        return SagRecipe(baseline=baseline, options=options, **sizes)
    return MethodRecipe(method, baseline=baseline, options=options, **sizes)


def image_key(seed: int, image: np.ndarray) -> Array:
    """Return the random key passed to an explain function for an image, to reproduce its result.

    Args:
      seed: the run's random seed.
      image: the image as in its `Example`, [H, W, C]: uint8 pixels, or floats in model space.

    Example:
      >>> bool(image_key(0, np.zeros((4, 4, 3))) == image_key(0, np.zeros((4, 4, 3))))
      True
    """
    check_seed(seed)
    return subject_keys(seed, jnp.asarray(request(image).words)).methods


# ---------------------------------------------------------------------------------------------------------
# The compiled step


class ExplainedBatch(NamedTuple):
    """The output of a step for B images."""

    target: Array  # int32 [B], the explained class
    score: Array  # float32 [B], the class's probability; for a score, its value
    result: Any  # leaves [B, ...]


class ShardedStep(NamedTuple):
    """A compiled step, with the model's parameters on the devices."""

    run: Callable[[Request], ExplainedBatch]  # returns immediately, while the devices are still working
    size: int  # B
    n_classes: int | None  # of the model; None for a score
    compile_seconds: float


def default_per_device_batch() -> int:
    """Return the number of images per device per step: 1 on a CPU (more is not faster), else 16."""
    return 1 if jax.default_backend() == "cpu" else 16


def local_mesh(mesh: Mesh | None) -> Mesh:
    """Return this host's part of `mesh`. If `mesh` is None, return a one-axis mesh over all its devices.

    Raises:
      ValueError: the mesh has several axes, none of them named "data".
    """
    if mesh is None:
        return Mesh(np.array(jax.local_devices()), (DATA,))
    names = mesh.axis_names
    if DATA not in names and len(names) != 1:
        raise ValueError(f"mesh must have an axis named {DATA!r} or a single axis, got {names}.")
    return Mesh(mesh.local_mesh.devices, names if DATA in names else (DATA,))


def check_model(model: Any, image_format: ImageFormat) -> None:
    """Raise a TypeError if images are pixels and the model cannot normalize them."""
    if image_format.dtype == "uint8" and not hasattr(model, "normalize"):
        raise TypeError(
            "uint8 images require a model with normalize(pixels), such as the models in jaxplain.zoo; "
            "for your own model, pass float images in model space."
        )


def result_leaves(
    explain: "ExplainFunction | Recipe", model: Any, image_format: ImageFormat
) -> dict[str, LeafSpec]:
    """Return the name, shape and dtype of each array that `explain` returns, without running it.

    Raises:
      ValueError: `explain` returns no arrays.
      Exception: any error that `explain` raises for such an image.
    """
    shapes = jax.eval_shape(partial(_explain_share, explain), model, jnp.uint32(0), _shapes(image_format, 1))
    leaves = leaves_of(shapes.result)
    if not leaves:
        raise ValueError(
            "explain returned nothing to store: it must return arrays, such as the importance of a heatmap."
        )
    return {name: LeafSpec(leaf.shape[1:], str(leaf.dtype)) for name, leaf in leaves.items()}


def compile_step(
    explain: "ExplainFunction | Recipe",
    model: Any,
    image_format: ImageFormat,
    mesh: Mesh,
    *,
    seed: int,
    per_device_batch: int,
) -> ShardedStep:
    """Compile a step for the devices of a local mesh."""
    size = per_device_batch * mesh.shape[DATA]
    rows, whole = PartitionSpec(DATA), PartitionSpec()
    step = jax.shard_map(
        partial(_explain_share, explain),
        mesh=mesh,
        in_specs=(whole, whole, rows),
        out_specs=rows,
        check_vma=False,  # nothing is shared between devices, so there is nothing to check
    )
    sharded = NamedSharding(mesh, rows)
    start = time.perf_counter()
    parameters, seed_array = jax.device_put((model, jnp.uint32(seed)), NamedSharding(mesh, whole))
    shapes = jax.tree_util.tree_map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharded),
        _shapes(image_format, size),
    )
    compiled = jax.jit(step).lower(parameters, seed_array, shapes).compile()

    def run(batch: Request) -> ExplainedBatch:
        # The copy to the devices starts while they are still working on the previous batch.
        return compiled(parameters, seed_array, jax.device_put(batch, sharded))

    n_classes = _number_of_classes(model, image_format)
    return ShardedStep(run, size, n_classes, time.perf_counter() - start)


def _number_of_classes(model: Any, image_format: ImageFormat) -> int | None:
    """Return the number of a classifier's classes; None for a score."""
    images = jax.ShapeDtypeStruct((1, *image_format.shape), jnp.float32)
    output = jax.eval_shape(model, images)
    if getattr(output, "ndim", None) == 1:
        return None
    return jax.eval_shape(as_logits, output, images).shape[1]


def stack_requests(requests: Sequence[Request], size: int) -> Request:
    """Stack requests into a batch of `size` images, repeating the last one as padding."""
    full = [*requests, *[requests[-1]] * (size - len(requests))]
    return jax.tree_util.tree_map(lambda *leaves: np.stack(leaves), *full)


def _shapes(image_format: ImageFormat, size: int) -> Request:
    return Request(
        image=jax.ShapeDtypeStruct((size, *image_format.shape), image_format.dtype),
        target=jax.ShapeDtypeStruct((size,), jnp.int32),
        words=jax.ShapeDtypeStruct((size, 2), jnp.uint32),
    )


def _explain_share(
    explain: "ExplainFunction | Recipe", model: Any, seed: Array, requests: Request
) -> ExplainedBatch:
    """Explain one device's share of a batch."""
    baseline = explain.baseline if isinstance(explain, Recipe) else None
    prepare = partial(make_subject, model, seed, baseline=baseline)
    # Bound the number of images per model call here too.
    subjects = jax.lax.map(prepare, requests, batch_size=_model_batch(len(requests.image)))
    result = jax.vmap(partial(_explain_one, explain, model))(subjects)
    return ExplainedBatch(subjects.target, subjects.probability, jax.tree_util.tree_map(_storable, result))


def _explain_one(explain: "ExplainFunction | Recipe", model: Any, subject: Subject) -> Any:
    if isinstance(explain, Recipe):
        return explain(model, subject)
    return explain(model, subject.image, subject.target, subject.key)


def _model_batch(images: int) -> int:
    """Return the largest divisor of `images` that is at most the default batch size.

    A partial batch would force a second compilation of the network.
    """
    largest = min(images, funnel.default_batch_size())
    return next(size for size in range(largest, 0, -1) if images % size == 0)


def _storable(leaf: Array) -> Array:
    """Convert bfloat16, which Zarr does not support."""
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf


# ---------------------------------------------------------------------------------------------------------
# Several hosts


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Connect this process to the other processes in a run; call it before anything else uses a device.

    Args:
      coordinator: "host:port" of process 0. If None, all three arguments are taken from the environment
        (SLURM, Open MPI, Cloud TPU, GKE).
      processes: number of processes.
      process: index of this process, starting at 0.

    Raises:
      ValueError: only some of the arguments are given, or one is malformed.
      RuntimeError: the other processes cannot be reached, the environment does not describe them, or a
        device has already been used.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise ValueError("coordinator, processes and process must be given together, or all omitted.")
    # JAX's own errors for these cases are cryptic, or it hangs.
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"coordinator must be host:port, such as 10.0.0.1:1234, got {coordinator!r}.")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(
            f"process must be in 0..{processes - 1}, one of {processes} processes, got {process}."
        )
    jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=_LONGEST_WAIT)


def is_first_process() -> bool:
    """Return whether this process creates the store."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Wait until every process reaches the barrier with this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def own_chunks(store: ResultStore) -> range:
    """Return this process's chunks: every n-th one, so that resumed runs share pending rows evenly."""
    return store.chunks[jax.process_index() :: jax.process_count()]
