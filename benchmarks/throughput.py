"""Throughput of explanations: images/s, model evaluations/s, share of the device's peak and of a lower bound.

    pip install -e ".[bench]" && python benchmarks/throughput.py --quick    # a few minutes on a CPU
    python benchmarks/throughput.py --torch --json FILE                      # under 8 minutes on an H100
    python benchmarks/throughput.py --model resnet50 --method igos++         # ResNet-50's shapes

A setting is method x mask size x images (explained at once, by vmap) x batch (images per model call, the
funnel's `batch_size`) x dtype [x recomputed activations]. The first value of each list is the base: every
method is measured there, and the first method also with each other value in place of the base's. --product
measures all combinations. Mask sizes are those of igos and igos++; sag and rise have grids of 7 x 7, and rise
explains an eighth as many images at once, with --samples masks each. Only one device is used.

EfficientNet-Lite0 has its real weights. ResNet-50 has random ones (fixed seed, logits scaled to a standard
deviation of 6, so that the softmax is neither flat nor saturated): its shapes without its answers. sag, whose
work depends on the answers, is skipped for it unless requested. Photos: foolbox's, or scikit-image's cat
shifted in several ways, or noise. The top prediction is explained.

step       seconds of one warm call of the compiled program (the shortest of --rounds), without compilation.
passes     from the results' own `evaluations`. Those with a backward pass: iterations x terms x nodes for
           igos and igos++ (candidate steps, initial masks and references are forward only), the nodes of the
           proposal map for sag, none for rise.
floor      the same numbers of forward and of forward + backward passes in bare compiled `lax.scan` loops that
           contain only the model and its gradient with respect to the images, at the best of the batch sizes,
           alternating with the step. "in model" is floor / step; above 1 only because of a busy machine.
FLOPs      XLA's own count for one bare forward (and forward + backward) call, before optimisation, so that no
           library call is missed, times the passes. Recomputed activations are not counted.
peak       the vendor's dense figure for the device and dtype, --peak-tflops, or otherwise (on a CPU) a large
           float32 matrix product in this run. The rate of such a product is printed for every device.

--torch: iGOS++ by benchmarks/torch_igos.py, an eager PyTorch loop with the same passes, upsampling, blending
and penalties on the same device, at its best of several numbers of images and batch sizes, alternating with
jaxplain's fastest setting of the same mask size and dtype. The masks of both are correlated.
"""

import argparse
import itertools
import os
import time
from typing import Any, NamedTuple

import floors
import harness
import jax
from steps import Effort, Setting, Step, compile_step, count_passes, load, some_pictures, variant

CHOICES = ("igos++", "igos", "sag", "rise")
MODELS = ("efficientnet-lite0", "resnet50")
TORCH_SHARE = 0.25  # of the budget, reserved for PyTorch


class Defaults(NamedTuple):
    """What is measured by default."""

    size: tuple[int, ...]
    images: tuple[int, ...]
    batch: tuple[int, ...]
    dtype: tuple[str, ...]
    samples: int  # masks of RISE
    rounds: int
    torch_images: tuple[int, ...]
    torch_batch: tuple[int, ...]
    loop_images: int  # images per run of a bare loop
    product_side: int  # of the matrix product


CPU = Defaults((28, 224), (1, 4), (1, 4), ("float32", "bfloat16"), 1000, 3, (1, 4), (1, 4, 12), 16, 2048)
CPU_QUICK = Defaults((28,), (1,), (1,), ("float32",), 200, 2, (1,), (1, 4), 16, 2048)
ACCELERATOR = Defaults(
    (28, 224), (64, 8), (256, 64), ("bfloat16", "float32"), 4000, 3, (64, 16), (64, 128, 256), 2048, 8192
)
ACCELERATOR_QUICK = ACCELERATOR._replace(
    size=(28,), images=(64,), batch=(256,), samples=1000, torch_images=(64,), torch_batch=(128, 256)
)

# ---------------------------------------------------------------------------------------------------------
# Settings and rows


def all_settings(options: argparse.Namespace) -> list[Setting]:
    """Return what to measure, the most informative first."""
    lists = (options.size, options.images, options.batch, options.dtype, options.remat)
    if options.product:
        settings = [Setting(*values) for values in itertools.product(options.method, *lists)]
    else:
        first = Setting(options.method[0], *(values[0] for values in lists))
        settings = bases = [first._replace(dtype=dtype) for dtype in options.dtype]
        for change in ("method", "size", "images", "batch", "remat"):
            for base in bases:
                others = getattr(options, change)[1:]
                settings = settings + [base._replace(**{change: value}) for value in others]
    return list(dict.fromkeys(setting.adjusted() for setting in settings))


def measure(
    setting: Setting, effort: Effort, step: Step, floor: floors.Floor, peak: floors.Peak, rounds: int
) -> dict[str, Any]:
    """Return a row of the table: the step and its lower bound, alternately."""
    passes = count_passes(setting, effort, step.run().evaluations)  # also warms up
    floor.run(passes)
    pairs = [(harness.timed(step.run)[1], floor.run(passes)) for _ in range(rounds)]
    all_seconds = dict(zip(("step", "floor"), zip(*pairs, strict=True), strict=True))
    seconds, floor_seconds = (min(spent) for spent in all_seconds.values())
    flops = passes.cost(floor.flops)
    tflops = flops / seconds / 1e12
    return {
        **setting._asdict(),
        "compile_seconds": step.compile_seconds,
        "planned_mib": step.planned_mib,
        "seconds": seconds,
        "all_seconds": all_seconds,
        "forward_passes": passes.forward,
        "backward_passes": passes.backward,
        "images_per_second": setting.images / seconds,
        "evaluations_per_second": sum(passes) / seconds,
        "floor_seconds": floor_seconds,
        "floor_batches": [floor.forward.batch, floor.backward.batch],
        "in_model": floor_seconds / seconds,
        "flops": flops,
        "tflops_per_second": tflops,
        "share_of_peak": tflops / peak.tflops,
        "floor_share_of_peak": flops / floor_seconds / 1e12 / peak.tflops,
        "share_of_product": tflops / peak.product_tflops,
    }


COLUMNS = {  # heading, format
    "compile_seconds": ("compile", "8.1f"),
    "seconds": ("step s", "8.3f"),
    "images_per_second": ("images/s", "9.3f"),
    "evaluations_per_second": ("evals/s", "9.1f"),
    "forward_passes": ("forward", "8"),
    "backward_passes": ("+backward", "9"),
    "floor_seconds": ("floor s", "8.3f"),
    "in_model": ("in model", "8.3f"),
    "share_of_peak": ("of peak", "8.4f"),
    "floor_share_of_peak": ("(floor)", "8.4f"),
    "planned_mib": ("MiB", "7.0f"),
}


def header() -> str:
    headings = " ".join(f"{title:>{int(float(form.rstrip('f')))}}" for title, form in COLUMNS.values())
    return f"{'method':8} {'size':>4} {'images':>6} {'batch':>6} {'dtype':14} {headings}"


def line(row: dict[str, Any]) -> str:
    return " ".join(format(row[name], form) for name, (_, form) in COLUMNS.items())


# ---------------------------------------------------------------------------------------------------------
# The run


def parse() -> argparse.Namespace:
    parser = harness.arguments(__doc__, photos=False)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--method", nargs="+", choices=CHOICES, help="the first gets the most settings")
    parser.add_argument("--size", nargs="+", type=int, help="rows and columns of the masks")
    parser.add_argument("--images", nargs="+", type=int, help="images explained at once")
    parser.add_argument("--batch", nargs="+", type=int, help="images per model call")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--remat", action="store_true", help="also measure with recomputed activations")
    parser.add_argument("--samples", type=int, metavar="N", help="masks of RISE")
    parser.add_argument("--iterations", type=int, help="of igos and igos++; default: the method's")
    parser.add_argument("--product", action="store_true", help="measure all combinations")
    parser.add_argument("--quick", action="store_true", help="shorter default lists")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--budget", type=float, default=420, help="start nothing after this many seconds")
    parser.add_argument("--peak-tflops", type=float, help="peak of the device, for every dtype")
    parser.add_argument("--torch", action="store_true", help="also measure iGOS++ in eager PyTorch")
    parser.add_argument("--torch-images", nargs="+", type=int)
    parser.add_argument("--torch-batch", nargs="+", type=int)
    parser.add_argument("--threads", type=int, help="threads of PyTorch on a CPU")
    return parser.parse_args()


def with_defaults(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in the platform's defaults for options that were not given."""
    if jax.default_backend() == "cpu":
        defaults = CPU_QUICK if options.quick else CPU
    else:
        defaults = ACCELERATOR_QUICK if options.quick else ACCELERATOR
    for name, value in defaults._asdict().items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    options.remat = (False, True) if options.remat else (False,)
    if options.method is None:
        options.method = CHOICES if options.model == MODELS[0] else ("igos++", "igos", "rise")
    return options


class Run:
    """Measures all settings and keeps the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.effort = Effort(options.samples, options.iterations)
        self.report: dict[str, Any] = describe(options)
        self.peaks = floors.measure_peaks(options.dtype, options.peak_tflops, options.product_side)
        self.model = load(options.model)
        torch_images = options.torch_images if options.torch else ()
        self.pictures = some_pictures(self.model, max(*options.images, *torch_images, 1))
        self.floors = {
            dtype: floors.measure_floor(
                variant(self.model, dtype, False), self.pictures.images, self.pictures.targets[0],
                batches=options.batch, loop_images=options.loop_images, dtype=dtype,
            )
            for dtype in options.dtype
        }  # fmt: skip
        self.fastest: dict[tuple[int, str], tuple[Setting, Step, dict[str, Any]]] = {}
        self.report |= {"peaks": {dtype: peak._asdict() for dtype, peak in self.peaks.items()}}
        self.report |= {"bare": {dtype: floor.record() for dtype, floor in self.floors.items()}, "rows": []}

    def measure(self, setting: Setting) -> None:
        """Add the row of a setting; if it does not fit into memory, one with the error."""
        print(setting, end=" ", flush=True)
        dtype = setting.dtype
        try:
            model = variant(self.model, dtype, setting.remat)
            step = compile_step(setting, self.effort, model, self.pictures)
            row = measure(
                setting, self.effort, step, self.floors[dtype], self.peaks[dtype], self.options.rounds
            )
        except jax.errors.JaxRuntimeError as error:
            self.report["rows"].append({**setting._asdict(), "error": floors.error_line(error)})
            print(floors.error_line(error), flush=True)
            return
        self.report["rows"].append(row)
        print(line(row), flush=True)
        harness.save(self.options, self.report)
        known = self.fastest.get((setting.size, dtype))
        is_fastest = known is None or row["images_per_second"] > known[2]["images_per_second"]
        if setting.method == "igos++" and is_fastest:
            self.fastest[setting.size, dtype] = setting, step, row

    def compare_with_torch(self, deadline: float) -> None:
        """Add the comparison with PyTorch."""
        import throughput_torch

        fastest = [
            throughput_torch.Fastest(setting, step.run, row, self.effort.all_options(setting))
            for setting, step, row in self.fastest.values()
        ]
        self.report["torch"] = throughput_torch.compare(
            self.options, self.model, self.pictures, fastest, deadline
        )


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return what is measured on which device."""
    kind, platform = jax.devices()[0].device_kind, jax.default_backend()
    precision = jax.config.jax_default_matmul_precision
    print(
        f"{options.model} on {kind} ({platform}), JAX {jax.__version__}; float32 products at precision "
        f"{precision or 'default (TF32 on an NVIDIA GPU, bfloat16 on a TPU)'}"
    )
    return {
        "model": options.model,
        "device": kind,
        "platform": platform,
        "jax": jax.__version__,
        "matmul_precision": precision,
        "rise_samples": options.samples,
        "iterations": options.iterations,
    }


def main() -> None:
    options = parse()
    if options.torch:  # room for PyTorch on the same GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    start = time.perf_counter()
    run = Run(with_defaults(options))
    deadline = start + options.budget
    last_start = deadline - options.budget * TORCH_SHARE * options.torch
    print(f"\n{header()}")
    for setting in all_settings(options):
        if time.perf_counter() > last_start:
            print(f"{setting}  skipped: the budget of {options.budget:.0f} s is spent")
        else:
            run.measure(setting)
    if options.torch:
        run.compare_with_torch(deadline)
    harness.save(options, run.report)
    print(f"{time.perf_counter() - start:.0f} s in total")


if __name__ == "__main__":
    main()
