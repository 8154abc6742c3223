"""Throughput of explanations: images/s, model evaluations/s and share of the device's peak, against a floor.

    pip install -e ".[bench]" && python benchmarks/throughput.py --quick    # a few minutes on a CPU
    python benchmarks/throughput.py --torch --json FILE                      # under 8 minutes on an H100
    python benchmarks/throughput.py --model resnet50 --method igos_pp        # ResNet-50's shapes

A setting is method x mask size x images (explained at once, by vmap) x batch (images per model call, the
funnel's `batch_size`) x dtype [x recomputed activations]. The first value of each list is the base; every
method is measured there, and the first method also with each other value in place of the base's. --product
measures all combinations. Mask sizes are those of igos and igos_pp; sag and rise have grids of 7 x 7, and
rise explains an eighth as many images at once, of --masks each. One device, however many there are.

EfficientNet-Lite0 has its real weights. ResNet-50 has random ones (fixed seed, logits scaled to a standard
deviation of 6, so that the softmax is neither flat nor saturated): its shapes without its answers. sag, whose
work depends on the answers, is left out for it unless asked for. Photos: foolbox's, or scikit-image's cat
moved about, or noise. Explained is the top prediction.

step       seconds of one warm call of the compiled program (the least of --rounds); compilation is apart.
passes     from the results' own `evaluations`. Of them with a backward pass: iterations x terms x nodes for
           igos and igos_pp (the candidate steps, the start and the references are forward only), the nodes of
           the proposal map for sag, none for rise.
floor      the same numbers of forward and of forward + backward passes in bare compiled `lax.scan` loops that
           hold nothing but the model and its gradient in the images, at the best of the batch sizes, measured
           in turns with the step. "in model" is floor / step; above 1 only where a busy machine makes it.
FLOPs      XLA's own count of one bare forward (and forward + backward) call, before optimisation, so that no
           library call hides from it; times the passes. Recomputed activations count nothing.
peak       the vendor's dense figure for the device and dtype, --peak-tflops, or else (on a CPU) a large
           float32 matrix product in this run. What such a product reaches is shown for every device.

--torch: iGOS++ by benchmarks/torch_igos.py, an eager PyTorch loop that does the same passes, upsampling,
blending and penalties on the same device, at its best of several numbers of images and batch sizes, then in
turns with jaxplain's fastest setting of the same mask size and dtype. The masks of both are correlated.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import photos
from flax import nnx
from jax import Array
from jaxplain.masks.settings import parameters
from jaxplain.sag.proposal import STEPS as PROPOSAL_STEPS

import jaxplain as jx
from jaxplain import attributions
from jaxplain.masks.recipes import IGOS, IGOS_PP
from jaxplain.precision import lower_precision, rematerialize

METHODS = ("igos_pp", "igos", "sag", "rise")
RECIPES = {"igos_pp": ("igos++", IGOS_PP), "igos": ("igos", IGOS)}
MODELS = ("efficientnet-lite0", "resnet50")
RISE_SHARE = 8  # one image of RISE is so many model calls that fewer at once fill any batch
TORCH_SHARE = 0.25  # of the budget, kept for the rival
OFFSETS = 8  # batches of a bare loop differ by where in the stock they start


class Defaults(NamedTuple):
    """What is measured where nothing is chosen."""

    size: tuple[int, ...]
    images: tuple[int, ...]
    batch: tuple[int, ...]
    dtype: tuple[str, ...]
    masks: int  # of RISE
    rounds: int
    torch_images: tuple[int, ...]
    torch_batch: tuple[int, ...]
    bare_images: int  # model calls of one bare loop, in images
    product_side: int  # of the matrix product


CPU = Defaults((28, 224), (1, 4), (1, 4), ("float32", "bfloat16"), 1000, 3, (1, 4), (1, 4, 12), 16, 2048)
CPU_QUICK = Defaults((28,), (1,), (1,), ("float32",), 200, 2, (1,), (1, 4), 16, 2048)
ACCELERATOR = Defaults(
    (28, 224), (64, 8), (256, 64), ("bfloat16", "float32"), 4000, 3, (64, 16), (64, 128, 256), 2048, 8192
)
ACCELERATOR_QUICK = ACCELERATOR._replace(
    size=(28,), images=(64,), batch=(256,), masks=1000, torch_images=(64,), torch_batch=(128, 256)
)


class Setting(NamedTuple):
    """One row of the table."""

    method: str
    size: int
    images: int
    batch: int
    dtype: str
    remat: bool

    def __str__(self) -> str:
        name = f"{self.method:8} {self.size:4} {self.images:6} {self.batch:6} {self.dtype:9}"
        return name + ("remat" if self.remat else "     ")


class Passes(NamedTuple):
    """Model calls in images: forward only, and forward + backward."""

    forward: float
    backward: float

    def cost(self, each: "Passes") -> float:
        """What they cost together."""
        return self.forward * each.forward + self.backward * each.backward


# -------------------------------------------------------------------------------------- models and pictures


def load(name: str) -> jx.zoo.ZooClassifier:
    if name == "efficientnet-lite0":
        return jx.zoo.load(name)
    model = jx.zoo.MODELS[name].build(name, jx.zoo.imagenet_labels(), rngs=nnx.Rngs(0))
    logits = jax.jit(lambda model, images: model(images))(model, some_images(model, 2))
    spread = jnp.mean(jnp.std(logits, axis=1))
    model.classify.kernel = nnx.Param(model.classify.kernel[...] * (6.0 / spread))
    return model


def variant(model: Any, dtype: str, remat: bool) -> Any:
    """The model in a dtype, with activations recomputed or kept."""
    low = model if dtype == "float32" else lower_precision(model, dtype)
    return rematerialize(low) if remat else low


class Pictures(NamedTuple):
    """What is explained."""

    images: Array  # [N, H, W, 3]
    baselines: Array  # [N, H, W, 3]
    targets: Array  # int32 [N]


def some_images(model: jx.zoo.ZooClassifier, count: int) -> Array:
    """Different images in model space: [count, H, W, 3]."""
    try:
        paths = photos.foolbox() if find_spec("foolbox") else [photos.cat()]
        shown = [model.preprocess(jx.load_image(path)) for path in paths[:count]]
    except (AttributeError, FileNotFoundError):  # no package with photos
        shown = [jax.random.normal(jax.random.key(2), (*model.spec.size, 3))]
    moved = [jnp.roll(shown[n % len(shown)], 16 * (n // len(shown)), (0, 1)) for n in range(count)]
    return jnp.stack(moved)


def some_pictures(model: jx.zoo.ZooClassifier, count: int) -> Pictures:
    images = some_images(model, count)
    logits = jax.jit(lambda model, images: jax.lax.map(lambda image: model(image[None])[0], images))
    return Pictures(
        images,
        jax.jit(jax.vmap(jx.blur_baseline))(images),
        jnp.argmax(logits(model, images), axis=1).astype(jnp.int32),
    )


# ------------------------------------------------------------------------------------------------ the steps


class Effort(NamedTuple):
    """How much of a method is run."""

    masks: int  # of RISE
    iterations: int | None  # of igos and igos_pp; None: the preset's


def recipe_options(setting: Setting, effort: Effort) -> dict[str, Any]:
    chosen = {} if effort.iterations is None else {"iterations": effort.iterations}
    return {"size": setting.size, **chosen}


class Explained(NamedTuple):
    """What one image costs and gives."""

    evaluations: Array  # int32 [], the method's own count
    map: Array


def explain(
    setting: Setting, effort: Effort, model: Any, image: Array, baseline: Array, target: Array, key: Array
) -> Explained:
    score = jx.class_score(model, target)
    batch = setting.batch
    if setting.method in RECIPES:
        recipe = jx.igos_pp if setting.method == "igos_pp" else jx.igos
        found = recipe(score, image, baseline, batch_size=batch, **recipe_options(setting, effort))
        return Explained(found.evaluations, found.mask)
    if setting.method == "rise":
        found = attributions.rise(score, image, baseline, key=key, n_masks=effort.masks, batch_size=batch)
        return Explained(found.evaluations, found.saliency)
    proposal = jx.sag.proposal_map(score, image, baseline, batch_size=batch)
    found = jx.sag.search(score, image, baseline, proposal=proposal, batch_size=batch)
    return Explained(found.evaluations, found.sets)


class Step(NamedTuple):
    """A compiled step."""

    run: Callable[[], Explained]
    compile_seconds: float
    planned_mib: float  # temporary memory that XLA planned


def compile_step(setting: Setting, effort: Effort, model: Any, pictures: Pictures) -> Step:
    count = setting.images
    given = jax.tree_util.tree_map(lambda leaf: leaf[:count], pictures)
    keys = jax.random.split(jax.random.key(3), count)
    step = jax.jit(lambda model, *rows: jax.vmap(partial(explain, setting, effort, model))(*rows))
    start = time.perf_counter()
    compiled = step.lower(model, *given, keys).compile()
    spent = time.perf_counter() - start
    planned = compiled.memory_analysis()
    memory = planned.temp_size_in_bytes / 2**20 if planned is not None else float("nan")
    return Step(lambda: jax.block_until_ready(compiled(model, *given, keys)), spent, memory)


def passes_of(setting: Setting, effort: Effort, evaluations: np.ndarray) -> Passes:
    """Passes of a step from the results' own counts."""
    total = int(evaluations.sum())
    if setting.method in RECIPES:
        name, objective = RECIPES[setting.method]
        chosen = parameters(name, recipe_options(setting, effort))
        backward = setting.images * chosen["iterations"] * len(objective.terms) * chosen["steps"]
        return Passes(total - backward, backward)
    return Passes(total, setting.images * PROPOSAL_STEPS if setting.method == "sag" else 0)


# ------------------------------------------------------------------------------------------------ the floor


class Loop(NamedTuple):
    """A bare compiled loop."""

    run: Callable[[], Any]
    images: int  # that go through the model in one run
    batch: int
    seconds: float  # an image
    compile_seconds: float
    flops: float  # an image, as optimised: XLA counts the body of a loop once


def total_score(score: Any, images: Array) -> Array:
    return score(images).sum()


def one_call(score: Any, images: Array, backward: bool) -> Any:
    return jax.value_and_grad(total_score, argnums=1)(score, images) if backward else score(images).sum()


def bare(score: Any, stock: Array, *, batch: int, calls: int, backward: bool) -> Any:
    """Sums of scores (and of gradients) over many model calls, each of other images."""

    def step(total: Any, number: Array) -> tuple[Any, None]:
        images = jax.lax.dynamic_slice_in_dim(stock, number % OFFSETS, batch)
        return jax.tree_util.tree_map(jnp.add, total, one_call(score, images, backward)), None

    zero = jnp.zeros(())
    start = (zero, jnp.zeros((batch, *stock.shape[1:]))) if backward else zero
    return jax.lax.scan(step, start, jnp.arange(calls))[0]


def compile_loop(score: Any, stock: Array, batch: int, images: int, backward: bool) -> Loop:
    calls = max(1, images // batch)
    given = stock[: batch + OFFSETS - 1]
    start = time.perf_counter()
    function = jax.jit(partial(bare, batch=batch, calls=calls, backward=backward))
    compiled = function.lower(score, given).compile()
    spent = time.perf_counter() - start

    def run() -> Any:
        return jax.block_until_ready(compiled(score, given))

    seconds = least(run, 2) / (calls * batch)
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan")) / batch
    return Loop(run, calls * batch, batch, seconds, spent, flops)


def flops_an_image(score: Any, images: Array, backward: bool) -> float:
    """XLA's count of one bare call, before optimisation where the backend counts that."""
    lowered = jax.jit(partial(one_call, backward=backward)).lower(score, images)
    counted = lowered.cost_analysis() or lowered.compile().cost_analysis() or {}
    return counted.get("flops", float("nan")) / len(images)


class Floor(NamedTuple):
    """The best bare loops of one dtype."""

    forward: Loop
    backward: Loop
    flops: Passes  # of one image


def measure_floor(model: Any, pictures: Pictures, batches: tuple[int, ...], images: int, dtype: str) -> Floor:
    score = jx.class_score(model, pictures.targets[0])
    count = max(batches) + OFFSETS
    stock = pictures.images[jnp.arange(count) % len(pictures.images)]
    best, flops = {}, {}
    for backward in (False, True):
        loops = []
        for batch in batches:
            try:
                loops.append(compile_loop(score, stock, batch, images, backward))
            except jax.errors.JaxRuntimeError as error:
                print(f"bare loop of {batch}: {first_line(error)}", flush=True)
        if not loops:
            raise SystemExit("no bare loop fits: choose smaller batches")
        best[backward] = min(loops, key=lambda loop: loop.seconds)
        flops[backward] = flops_an_image(score, stock[: best[backward].batch], backward)
        cells = "  ".join(f"{loop.batch}: {1e3 * loop.seconds:.3f}" for loop in loops)
        title = "forward + backward" if backward else "forward"
        print(
            f"bare {title}, {dtype}: ms an image by batch  {cells}   "
            f"{flops[backward] / 1e9:.3f} GFLOP an image; compiled in {loops[0].compile_seconds:.1f} s",
            flush=True,
        )
    return Floor(best[False], best[True], Passes(flops[False], flops[True]))


def run_floor(floor: Floor, passes: Passes) -> float:
    """Seconds of the passes in bare loops: whole runs of them, scaled to the exact number."""
    total = 0.0
    for loop, count in ((floor.forward, passes.forward), (floor.backward, passes.backward)):
        if not count:
            continue
        runs = max(1, round(count / loop.images))
        start = time.perf_counter()
        for _ in range(runs):
            loop.run()
        total += (time.perf_counter() - start) * count / (runs * loop.images)
    return total


# ------------------------------------------------------------------------------------------------- the peak

# Dense TFLOP/s: bfloat16 and float16, float32 at JAX's default precision, float32 at "highest". By what
# device_kind contains; the first that fits.
PEAKS = {
    "H100 PCIe": (756, 378, 51),
    "H100": (989, 494, 67),
    "H200": (989, 494, 67),
    "A100": (312, 156, 19.5),
    "TPU v4": (275, 275, 275 / 6),
    "TPU v5 lite": (197, 197, 197 / 6),
    "TPU v5e": (197, 197, 197 / 6),
    "TPU v5": (459, 459, 459 / 6),
    "TPU v6": (918, 918, 918 / 6),
}
FULL = ("highest", "float32", "F32_F32_F32")


def known_peak(dtype: str) -> float | None:
    """TFLOP/s of the device by its vendor; None for one that is not in the table."""
    kind = jax.devices()[0].device_kind
    row = next((row for name, row in PEAKS.items() if name in kind), None)
    if row is None:
        return None
    full = str(jax.config.jax_default_matmul_precision) in FULL
    return float(row[0] if dtype != "float32" else row[2] if full else row[1])


def product_rate(side: int, dtype: str) -> float:
    """TFLOP/s of a large matrix product."""
    keys = jax.random.split(jax.random.key(4))
    factors = [jax.random.normal(key, (side, side), jnp.dtype(dtype)) for key in keys]
    multiply = jax.jit(jnp.matmul)
    repeats = 1 if jax.default_backend() == "cpu" else 10

    def run() -> None:
        jax.block_until_ready([multiply(*factors) for _ in range(repeats)])

    return repeats * 2 * side**3 / least(run, 3) / 1e12


def peaks_of(dtypes: list[str], given: float | None, side: int) -> dict[str, dict[str, Any]]:
    on_cpu = jax.default_backend() == "cpu"
    found = {}
    for dtype in dtypes:
        product = product_rate(side, "float32" if on_cpu else dtype)
        known = known_peak(dtype)
        source = "given" if given else "vendor" if known else "matrix product"
        found[dtype] = {"tflops": given or known or product, "source": source, "product_tflops": product}
        print(
            f"peak {dtype}: {found[dtype]['tflops']:.4g} TFLOP/s ({source}); a matrix product of side {side} "
            f"{'in float32 ' if on_cpu else ''}reaches {product:.4g}",
            flush=True,
        )
    return found


# ---------------------------------------------------------------------------------------------- measurement


def least(run: Callable[[], Any], rounds: int) -> float:
    """Least seconds of several calls after one that does not count."""
    run()
    spent = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return min(spent)


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120]


def measure(
    setting: Setting, effort: Effort, step: Step, floor: Floor, peak: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """A row of the table: the step and its floor, in turns."""
    passes = passes_of(setting, effort, np.asarray(step.run().evaluations))  # also warms up
    spent: dict[str, list[float]] = {"step": [], "floor": []}
    run_floor(floor, passes)
    for _ in range(rounds):
        start = time.perf_counter()
        step.run()
        spent["step"].append(time.perf_counter() - start)
        spent["floor"].append(run_floor(floor, passes))
    seconds, bare_seconds = min(spent["step"]), min(spent["floor"])
    flops = passes.cost(floor.flops)
    return {
        **setting._asdict(),
        "compile_seconds": step.compile_seconds,
        "planned_mib": step.planned_mib,
        "seconds": seconds,
        "all_seconds": spent,
        "forward_passes": passes.forward,
        "backward_passes": passes.backward,
        "images_per_second": setting.images / seconds,
        "evaluations_per_second": sum(passes) / seconds,
        "floor_seconds": bare_seconds,
        "floor_batches": [floor.forward.batch, floor.backward.batch],
        "in_model": bare_seconds / seconds,
        "flops": flops,
        "tflops_per_second": flops / seconds / 1e12,
        "share_of_peak": flops / seconds / 1e12 / peak["tflops"],
        "floor_share_of_peak": flops / bare_seconds / 1e12 / peak["tflops"],
        "share_of_product": flops / seconds / 1e12 / peak["product_tflops"],
    }


HEADER = (
    f"{'method':8} {'size':>4} {'images':>6} {'batch':>6} {'dtype':14} {'compile':>8} {'step s':>8} "
    f"{'images/s':>9} {'evals/s':>9} {'forward':>8} {'+backward':>9} {'floor s':>8} {'in model':>8} "
    f"{'of peak':>8} {'(floor)':>8} {'MiB':>7}"
)


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['compile_seconds']:8.1f} {row['seconds']:8.3f} {row['images_per_second']:9.3f} "
        f"{row['evaluations_per_second']:9.1f} {row['forward_passes']:8} {row['backward_passes']:9} "
        f"{row['floor_seconds']:8.3f} {row['in_model']:8.3f} {row['share_of_peak']:8.4f} "
        f"{row['floor_share_of_peak']:8.4f} {row['planned_mib']:7.0f}"
    )


def settings_of(options: argparse.Namespace) -> list[Setting]:
    """What to measure, the most telling first."""
    lists = (options.size, options.images, options.batch, options.dtype, options.remat)
    if options.product:
        found = [Setting(method, *rest) for method in options.method for rest in itertools.product(*lists)]
        return list(dict.fromkeys(fitted(setting) for setting in found))
    found = []
    for dtype in options.dtype:
        base = Setting(options.method[0], *(values[0] for values in lists))._replace(dtype=dtype)
        found.append(base)
    for change in ("method", "size", "images", "batch", "remat"):
        for base in found[: len(options.dtype)]:
            found += [base._replace(**{change: value}) for value in getattr(options, change)[1:]]
    return list(dict.fromkeys(fitted(setting) for setting in found))


def fitted(setting: Setting) -> Setting:
    """Without what a method has no use for."""
    if setting.method == "rise":
        few = max(1, setting.images // RISE_SHARE)
        return setting._replace(size=7, images=few, remat=False)
    return setting._replace(size=7) if setting.method == "sag" else setting


# ---------------------------------------------------------------------------------------------- the rival


class Fastest(NamedTuple):
    """jaxplain's fastest setting of igos_pp for a mask size and dtype."""

    setting: Setting
    step: Step
    row: dict[str, Any]


def torch_device() -> str | None:
    import torch

    if jax.default_backend() == "cpu":
        return "cpu"
    return "cuda" if jax.default_backend() in ("gpu", "cuda") and torch.cuda.is_available() else None


def against_torch(
    options: argparse.Namespace,
    model: jx.zoo.ZooClassifier,
    pictures: Pictures,
    fastest: dict[tuple[int, str], Fastest],
    deadline: float,
) -> list[dict[str, Any]]:
    """Eager PyTorch at its best against jaxplain's fastest, in turns."""
    import torch

    device = torch_device()
    if device is None:
        print("PyTorch does not see this device: no comparison")
        return []
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # as JAX's default on a GPU; convolutions have it by default
    print(f"\niGOS++ by PyTorch {torch.__version__} on {device}, eager, channels_last")
    rows = []
    for (size, dtype), one in fastest.items():
        if time.perf_counter() > deadline:
            print(f"size {size} {dtype} left out: the budget of {options.budget:.0f} s is spent")
        else:
            rows.append(torch_row(options, model, pictures, one, device))
    return rows


def torch_row(
    options: argparse.Namespace, model: jx.zoo.ZooClassifier, pictures: Pictures, ours: Fastest, device: str
) -> dict[str, Any]:
    import torch
    import torch_igos

    setting = ours.setting
    dtype = getattr(torch, setting.dtype)
    network = torch_igos.network(options.model, model, device, dtype)
    chosen = parameters("igos++", recipe_options(setting, effort_of(options)))

    def of(images: int, batch: int) -> Callable[[], Any]:
        given = [np.asarray(leaf[:images]) for leaf in pictures]
        run = torch_igos.igos_pp(network, *given, device=device, dtype=dtype, chosen=chosen, batch=batch)

        def finished() -> Any:
            masks, passes = run()
            return masks.cpu().numpy(), passes

        return finished

    tried = {}
    for images, batch in itertools.product(options.torch_images, options.torch_batch):
        try:
            tried[images, batch] = images / least(of(images, batch), 1)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        print(
            f"  size {setting.size} {setting.dtype}: {images} images, batch {batch}: "
            f"{tried[images, batch]:.3f} images/s",
            flush=True,
        )
    if not tried:
        return {**setting._asdict(), "error": "out of memory"}
    (images, batch), _ = max(tried.items(), key=lambda entry: entry[1])
    theirs = of(images, batch)
    masks, passes = theirs()
    own = np.asarray(ours.step.run().map)
    spent: dict[str, list[float]] = {"jaxplain": [], "torch": []}
    for _ in range(options.rounds):
        # The first call of a turn is not counted: the other library's threads may still be spinning.
        spent["jaxplain"].append(least(ours.step.run, 1) / setting.images)
        spent["torch"].append(least(theirs, 1) / images)
    rates = {name: 1 / min(seconds) for name, seconds in spent.items()}
    alike = [correlation(a, b) for a, b in zip(own, masks, strict=False)]
    row = {
        **setting._asdict(),
        "torch_images": images,
        "torch_batch": batch,
        "tried": {f"{images} x {batch}": rate for (images, batch), rate in tried.items()},
        "images_per_second": rates,
        "ratio": rates["jaxplain"] / rates["torch"],
        "correlations": alike,
        "largest_difference": float(max(np.abs(a - b).max() for a, b in zip(own, masks, strict=False))),
        "passes_an_image": {
            "jaxplain": [ours.row[f"{way}_passes"] / setting.images for way in ("forward", "backward")],
            "torch": [passes[way] / images for way in ("forward", "backward")],
        },
    }
    print(
        f"size {setting.size} {setting.dtype}: jaxplain {rates['jaxplain']:.3f} images/s ({setting.images} "
        f"images, batch {setting.batch}), PyTorch {rates['torch']:.3f} ({images} images, batch {batch}): "
        f"{row['ratio']:.2f} times; masks correlate {np.mean(alike):.4f} (least {np.min(alike):.4f}) over "
        f"{len(alike)} images; forward, forward + backward passes an image {row['passes_an_image']}",
        flush=True,
    )
    return row


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks; 1 where both are the same without varying."""
    if np.ptp(one) < 1e-6 and np.ptp(other) < 1e-6:
        return 1.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


# ----------------------------------------------------------------------------------------------------- main


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--method", nargs="+", choices=METHODS, help="the first is measured most")
    parser.add_argument("--size", nargs="+", type=int, help="sides of masks")
    parser.add_argument("--images", nargs="+", type=int, help="explained at once")
    parser.add_argument("--batch", nargs="+", type=int, help="images per model call")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--remat", action="store_true", help="also with activations recomputed")
    parser.add_argument("--masks", type=int, help="of RISE")
    parser.add_argument("--iterations", type=int, help="of igos and igos_pp; the preset's if left out")
    parser.add_argument("--product", action="store_true", help="all combinations")
    parser.add_argument("--quick", action="store_true", help="short lists where none is given")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--budget", type=float, default=420, help="seconds after which nothing is begun")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for every dtype")
    parser.add_argument("--torch", action="store_true", help="also iGOS++ by eager PyTorch")
    parser.add_argument("--torch-images", nargs="+", type=int)
    parser.add_argument("--torch-batch", nargs="+", type=int)
    parser.add_argument("--threads", type=int, help="of PyTorch on a CPU")
    parser.add_argument("--json", type=Path, help="write all figures there, after every row")
    return parser.parse_args()


def effort_of(options: argparse.Namespace) -> Effort:
    return Effort(options.masks, options.iterations)


def filled(options: argparse.Namespace) -> argparse.Namespace:
    """Defaults of the platform for what was left out."""
    if jax.default_backend() == "cpu":
        defaults = CPU_QUICK if options.quick else CPU
    else:
        defaults = ACCELERATOR_QUICK if options.quick else ACCELERATOR
    for name, value in defaults._asdict().items():
        if getattr(options, name, None) in (None, False):
            setattr(options, name, value)
    options.remat = (False, True) if options.remat else (False,)
    if options.method is None:
        options.method = METHODS if options.model == MODELS[0] else ("igos_pp", "igos", "rise")
    return options


def main() -> None:
    options = parse()
    if options.torch:  # room for the rival on the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    begun = time.perf_counter()
    options = filled(options)
    device = jax.devices()[0]
    precision = jax.config.jax_default_matmul_precision
    report: dict[str, Any] = {
        "model": options.model,
        "device": device.device_kind,
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "matmul_precision": precision,
        "rise_masks": options.masks,
        "iterations": options.iterations,
    }
    print(
        f"{options.model} on {device.device_kind} ({jax.default_backend()}), JAX {jax.__version__}; float32 "
        f"products at precision {precision or 'default (TF32 on an NVIDIA GPU, bfloat16 on a TPU)'}"
    )

    def save() -> None:
        if options.json:
            options.json.write_text(json.dumps(report, indent=1))

    report["peaks"] = peaks_of(options.dtype, options.peak_tflops, options.product_side)
    model = load(options.model)
    settings, effort = settings_of(options), effort_of(options)
    pictures = some_pictures(model, max(*options.images, *(options.torch_images if options.torch else ()), 1))
    batches = tuple(dict.fromkeys(options.batch))
    floors = {
        dtype: measure_floor(variant(model, dtype, False), pictures, batches, options.bare_images, dtype)
        for dtype in options.dtype
    }
    report["bare"] = {
        dtype: {
            way: {
                "batch": loop.batch,
                "ms": 1e3 * loop.seconds,
                "gflop": flops / 1e9,
                "gflop_optimised": loop.flops / 1e9,
            }
            for way, loop, flops in zip(("forward", "backward"), floor[:2], floor.flops, strict=True)
        }
        for dtype, floor in floors.items()
    }
    report["rows"], fastest = [], {}
    deadline = begun + options.budget
    last_start = deadline - options.budget * TORCH_SHARE * options.torch
    print(f"\n{HEADER}")
    for setting in settings:
        if time.perf_counter() > last_start:
            print(f"{setting}  left out: the budget of {options.budget:.0f} s is spent")
            continue
        print(setting, end=" ", flush=True)
        try:
            of_setting = variant(model, setting.dtype, setting.remat)
            step = compile_step(setting, effort, of_setting, pictures)
            peak = report["peaks"][setting.dtype]
            row = measure(setting, effort, step, floors[setting.dtype], peak, options.rounds)
        except jax.errors.JaxRuntimeError as error:
            report["rows"].append({**setting._asdict(), "error": first_line(error)})
            print(first_line(error), flush=True)
            continue
        report["rows"].append(row)
        print(line(row), flush=True)
        save()
        group = setting.size, setting.dtype
        if setting.method == "igos_pp":
            new = Fastest(setting, step, row)
            old = fastest.get(group, new)
            fastest[group] = max(old, new, key=lambda one: one.row["images_per_second"])
    if options.torch:
        report["torch"] = against_torch(options, model, pictures, fastest, deadline)
    save()
    print(f"{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
