"""Lower bounds for throughput.py: bare compiled loops over the model, and the device's peak."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from harness import least_seconds, timed
from jax import Array

import jaxplain as jx

OFFSETS = 8  # batches of a bare loop differ in where in the stock of images they start


class Passes(NamedTuple):
    """Numbers per pass, forward only and forward + backward; for example images, or FLOPs per image."""

    forward: float
    backward: float

    def cost(self, per_pass: "Passes") -> float:
        """Return the total cost, given that of each pass."""
        return self.forward * per_pass.forward + self.backward * per_pass.backward


def error_line(error: Exception) -> str:
    """Return the first line of an error message, shortened."""
    return str(error).strip().splitlines()[0][:120]


# ---------------------------------------------------------------------------------------------------------
# Bare loops


class Loop(NamedTuple):
    """A bare compiled loop."""

    run: Callable[[], Any]
    images: int  # that pass through the model in one run
    batch: int
    seconds: float  # per image
    compile_seconds: float
    flops: float  # per image, after optimisation: XLA counts the body of a loop once

    def seconds_for(self, images: float) -> float:
        """Return the seconds for a number of images, scaled from whole runs of the loop."""
        if not images:
            return 0.0
        runs = max(1, round(images / self.images))
        _, seconds = timed(lambda: [self.run() for _ in range(runs)])
        return seconds * images / (runs * self.images)


class Floor(NamedTuple):
    """The fastest bare loops of one dtype."""

    forward: Loop
    backward: Loop
    flops: Passes  # per image

    def run(self, passes: Passes) -> float:
        """Return the seconds that the passes take in bare loops."""
        return self.forward.seconds_for(passes.forward) + self.backward.seconds_for(passes.backward)

    def record(self) -> dict[str, dict[str, float]]:
        """Return the figures for the report."""
        return {
            name: {
                "batch": loop.batch,
                "ms": 1e3 * loop.seconds,
                "gflop": flops / 1e9,
                "gflop_optimised": loop.flops / 1e9,
            }
            for name, loop, flops in zip(("forward", "backward"), self[:2], self.flops, strict=True)
        }


def one_call(score: Any, images: Array, backward: bool) -> Any:
    def total(score: Any, images: Array) -> Array:
        return score(images).sum()

    return jax.value_and_grad(total, argnums=1)(score, images) if backward else total(score, images)


def bare_loop(score: Any, stock: Array, *, batch: int, calls: int, backward: bool) -> Any:
    """Sum the scores (and gradients) of many model calls, each on different images."""

    def step(total: Any, number: Array) -> tuple[Any, None]:
        images = jax.lax.dynamic_slice_in_dim(stock, number % OFFSETS, batch)
        return jax.tree_util.tree_map(jnp.add, total, one_call(score, images, backward)), None

    zero = jnp.zeros(())
    start = (zero, jnp.zeros((batch, *stock.shape[1:]))) if backward else zero
    return jax.lax.scan(step, start, jnp.arange(calls))[0]


def compile_loop(score: Any, stock: Array, batch: int, images: int, backward: bool) -> Loop:
    calls = max(1, images // batch)
    given = stock[: batch + OFFSETS - 1]
    function = jax.jit(partial(bare_loop, batch=batch, calls=calls, backward=backward))
    compiled, compile_seconds = timed(lambda: function.lower(score, given).compile())

    def run() -> Any:
        return jax.block_until_ready(compiled(score, given))

    seconds = least_seconds(run, 2) / (calls * batch)
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan")) / batch
    return Loop(run, calls * batch, batch, seconds, compile_seconds, flops)


def flops_per_image(score: Any, images: Array, backward: bool) -> float:
    """Return XLA's count for one bare call, before optimisation if the backend can count that."""
    lowered = jax.jit(partial(one_call, backward=backward)).lower(score, images)
    counted = lowered.cost_analysis() or lowered.compile().cost_analysis() or {}
    return counted.get("flops", float("nan")) / len(images)


def measure_floor(
    model: Any, images: Array, target: Array, *, batches: list[int], loop_images: int, dtype: str
) -> Floor:
    """Compile bare loops for all batch sizes and keep the fastest.

    Args:
      model: classifier, already in its dtype.
      images: [N, H, W, 3], repeated as needed.
      target: class index.
      batches: batch sizes to try.
      loop_images: images per run of a loop.
      dtype: for the printed line.
    """
    score = jx.class_score(model, target)
    stock = images[jnp.arange(max(batches) + OFFSETS) % len(images)]
    best: dict[bool, Loop] = {}
    flops: dict[bool, float] = {}
    for backward in (False, True):
        loops = []
        for batch in dict.fromkeys(batches):
            try:
                loops.append(compile_loop(score, stock, batch, loop_images, backward))
            except jax.errors.JaxRuntimeError as error:
                print(f"bare loop of {batch}: {error_line(error)}", flush=True)
        if not loops:
            raise SystemExit("no bare loop fits into memory: choose smaller batches")
        best[backward] = min(loops, key=lambda loop: loop.seconds)
        flops[backward] = flops_per_image(score, stock[: best[backward].batch], backward)
        cells = "  ".join(f"{loop.batch}: {1e3 * loop.seconds:.3f}" for loop in loops)
        print(
            f"bare {'forward + backward' if backward else 'forward'}, {dtype}: ms per image by batch size  "
            f"{cells}   {flops[backward] / 1e9:.3f} GFLOP per image; compiled in "
            f"{loops[0].compile_seconds:.1f} s",
            flush=True,
        )
    return Floor(best[False], best[True], Passes(flops[False], flops[True]))


# ---------------------------------------------------------------------------------------------------------
# Peaks

# Dense TFLOP/s: bfloat16 and float16, float32 at JAX's default precision, float32 at "highest". By a part of
# device_kind; the first match counts.
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
FULL_PRECISION = ("highest", "float32", "F32_F32_F32")


class Peak(NamedTuple):
    """The highest rate of a device for one dtype."""

    tflops: float  # per second
    source: str  # "given", "vendor" or "matrix product"
    product_tflops: float  # what a large matrix product reaches


def vendor_peak(dtype: str) -> float | None:
    """Return the vendor's TFLOP/s of the device; None if it is not in the table."""
    kind = jax.devices()[0].device_kind
    row = next((row for name, row in PEAKS.items() if name in kind), None)
    if row is None:
        return None
    is_full = str(jax.config.jax_default_matmul_precision) in FULL_PRECISION
    return float(row[0] if dtype != "float32" else row[2] if is_full else row[1])


def product_rate(side: int, dtype: str) -> float:
    """Return the TFLOP/s of a large matrix product."""
    keys = jax.random.split(jax.random.key(4))
    factors = [jax.random.normal(key, (side, side), jnp.dtype(dtype)) for key in keys]
    multiply = jax.jit(jnp.matmul)
    repeats = 1 if jax.default_backend() == "cpu" else 10
    seconds = least_seconds(lambda: jax.block_until_ready([multiply(*factors) for _ in range(repeats)]), 3)
    return repeats * 2 * side**3 / seconds / 1e12


def measure_peaks(dtypes: list[str], given: float | None, side: int) -> dict[str, Peak]:
    """Return the peak of each dtype: the given one, the vendor's, or else that of a matrix product."""
    on_cpu = jax.default_backend() == "cpu"
    peaks = {}
    for dtype in dtypes:
        product = product_rate(side, "float32" if on_cpu else dtype)
        known = vendor_peak(dtype)
        source = "given" if given else "vendor" if known else "matrix product"
        peaks[dtype] = Peak(given or known or product, source, product)
        print(
            f"peak {dtype}: {peaks[dtype].tflops:.4g} TFLOP/s ({source}); a matrix product of side {side} "
            f"{'in float32 ' if on_cpu else ''}reaches {product:.4g}",
            flush=True,
        )
    return peaks
