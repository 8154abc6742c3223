"""Integrated gradients, SmoothGrad and occlusion: jaxplain and Captum with the same weights, in one run.

    pip install -e ".[bench]" && python benchmarks/against_captum.py

EfficientNet-Lite0 (`efficientnet-lite-pytorch` for Captum), one photo of 224 x 224. First the maps are
compared: gradient, integrated gradients (50 Gauss-Legendre steps), SmoothGrad with the same noise, occlusion
(window 32, stride 8, the same baseline). Then the seconds and the peak memory of one explanation: each
library, method and batch size in a process of its own, one after the other, `--rounds` times; the libraries
alternate. Seconds: the shortest of `--calls` warm calls, without compilation. Memory: the largest resident
size during a call minus that before it, after freed memory was returned to the system. Captum runs in both
memory layouts, without gradients for parameters.
"""

import argparse
import ctypes
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np

METHODS = ("integrated-gradients", "smooth-grad", "occlusion")
STEPS, SAMPLES, WINDOW, STRIDE, TARGET = 50, 50, 32, 8, 281
NOISE_SHARE = 0.15  # standard deviation of SmoothGrad's noise, as a share of the image's range
FIXED_NOISE = "smooth-grad of fixed noise"

Explain = Callable[[], np.ndarray]


class Setting(NamedTuple):
    """What one process measures."""

    library: str
    batch: int
    layout: str = ""

    def __str__(self) -> str:
        return f"{self.batch} {self.layout}".strip()


SETTINGS = [Setting("jaxplain", batch) for batch in (1, 2, 4, 8)] + [
    Setting("captum", *values)
    for values in itertools.product((1, 2, 5, 10, 25), ("contiguous", "channels_last"))
]


def cat() -> np.ndarray:
    """Return scikit-image's photo of a cat as the model sees it: float32 [224, 224, 3]."""
    import jaxplain as jx

    return np.asarray(harness.cropped(harness.cat(), jx.zoo.load("efficientnet-lite0")))


def noise_std(image: np.ndarray) -> float:
    return NOISE_SHARE * float(image.max() - image.min())


def fixed_noise(image: np.ndarray) -> np.ndarray:
    """Return the same noise for both libraries: [SAMPLES, H, W, 3]."""
    random = np.random.default_rng(0)
    return random.normal(0, noise_std(image), (SAMPLES, *image.shape)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------
# The two libraries


def jaxplain_methods(image: np.ndarray, batch: int | None) -> dict[str, Explain]:
    """Return jaxplain's methods by name; a second call is warm."""
    import jax
    import jax.numpy as jnp

    import jaxplain as jx
    from jaxplain import attributions

    score = jx.class_score(jx.zoo.load("efficientnet-lite0"), TARGET, "logit")
    array, black = jnp.asarray(image), jnp.zeros(image.shape)
    key, noise = jax.random.key(0), jnp.asarray(fixed_noise(image))

    def method(function: Callable[..., Any], baseline: Any = None, **options: Any) -> Explain:
        return lambda: np.asarray(function(score, array, baseline, **options).details.attribution)

    smooth, shared = attributions.smooth_grad, {"batch_size": batch}
    return {
        "gradient": method(attributions.gradient),
        "integrated-gradients": method(
            attributions.integrated_gradients, black, n_steps=STEPS, rule="gauss_legendre", **shared
        ),
        "smooth-grad": method(smooth, key=key, n_samples=SAMPLES, noise=noise_std(image), **shared),
        FIXED_NOISE: method(smooth, noise_samples=noise, **shared),
        "occlusion": method(attributions.occlusion, black, window=WINDOW, stride=STRIDE, **shared),
    }


def captum_methods(image: np.ndarray, batch: int, layout: str) -> dict[str, Explain]:
    """Return Captum's methods by name; maps are [H, W, 3], of occlusion [H, W]."""
    import torch
    from captum.attr import IntegratedGradients, NoiseTunnel, Occlusion, Saliency
    from torch_igos import lite0

    torch.set_num_threads(2)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = lite0().eval().requires_grad_(False).to(memory_format=memory)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return model(images.contiguous(memory_format=memory))

    tensor = torch.tensor(image.transpose(2, 0, 1)[None]).contiguous(memory_format=memory)

    def method(explainer: Any, **options: Any) -> Explain:
        def run() -> np.ndarray:
            attribution = explainer.attribute(tensor, target=TARGET, **options)
            return attribution.detach().numpy()[0].transpose(1, 2, 0)

        return run

    def smooth_grad_of_fixed_noise() -> np.ndarray:
        noisy = tensor + torch.tensor(fixed_noise(image).transpose(0, 3, 1, 2))
        gradients = Saliency(forward).attribute(noisy, target=TARGET, abs=False)
        return gradients.mean(0).detach().numpy().transpose(1, 2, 0)

    windows, strides = (3, WINDOW, WINDOW), (3, STRIDE, STRIDE)
    occlusion = method(
        Occlusion(forward), sliding_window_shapes=windows, strides=strides, perturbations_per_eval=batch
    )

    def occlusion_without_graph() -> np.ndarray:
        with torch.no_grad():  # fair: the method needs no gradient
            return occlusion()[..., 0]

    return {
        "gradient": method(Saliency(forward), abs=False),
        "integrated-gradients": method(
            IntegratedGradients(forward), n_steps=STEPS, method="gausslegendre", internal_batch_size=batch
        ),
        "smooth-grad": method(
            NoiseTunnel(Saliency(forward)),
            nt_type="smoothgrad",
            nt_samples=SAMPLES,
            nt_samples_batch_size=batch,
            stdevs=noise_std(image),
            abs=False,
        ),
        FIXED_NOISE: smooth_grad_of_fixed_noise,
        "occlusion": occlusion_without_graph,
    }


def compare_maps(image: np.ndarray) -> dict[str, dict[str, float]]:
    """Print and return differences between the libraries' maps, and their correlation."""
    ours, theirs = jaxplain_methods(image, None), captum_methods(image, 10, "channels_last")
    report = {}
    print("map                         largest value  largest difference  relative to norm  correlation")
    for name in ("gradient", "integrated-gradients", FIXED_NOISE, "occlusion"):
        one, other = ours[name](), theirs[name]()
        row = {
            "largest": float(np.abs(other).max()),
            "difference": float(np.abs(one - other).max()),
            "norm": float(np.linalg.norm(one - other) / np.linalg.norm(other)),
            "correlation": float(np.corrcoef(one.ravel(), other.ravel())[0, 1]),
        }
        report[name] = row
        print(
            "{name:27} {largest:13.3g}  {difference:18.2e}  {norm:16.2e}  {correlation:.8f}".format(
                name=name, **row
            ),
            flush=True,
        )
    return report


# ---------------------------------------------------------------------------------------------------------
# Time and memory


def peak_memory(run: Explain) -> float:
    """Return the largest resident memory during a call minus that before it, in MiB, sampled every 2 ms."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, samples, finished = harness.resident_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not finished.is_set():
            samples.append(harness.resident_mib())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    finished.set()
    watcher.join()
    return max(samples) - before


def measure_here(setting: Setting, method: str, image: np.ndarray, calls: int) -> dict[str, float]:
    """Measure one setting in this process."""
    if setting.library == "jaxplain":
        run = jaxplain_methods(image, setting.batch)[method]
    else:
        run = captum_methods(image, setting.batch, setting.layout)[method]
    _, first = harness.timed(run)
    seconds = min(harness.timed(run)[1] for _ in range(calls))
    return {"first": first, "seconds": seconds, "memory": peak_memory(run)}


def measure(options: argparse.Namespace, method: str, image: Path) -> dict[Setting, dict[str, float]]:
    """Measure every setting in a process of its own; return the least of each figure."""
    results: dict[Setting, dict[str, float]] = {}
    for _, setting in itertools.product(range(options.rounds), SETTINGS):
        child = json.dumps([setting, method, str(image), options.calls])
        process = subprocess.run(
            [sys.executable, __file__, "--child", child], capture_output=True, text=True, check=False
        )
        if process.returncode:
            raise SystemExit(process.stderr)
        measured = json.loads(process.stdout.splitlines()[-1])
        known = results.get(setting, measured)
        results[setting] = {name: min(known[name], measured[name]) for name in measured}
    return results


def summarize(method: str, results: dict[Setting, dict[str, float]]) -> dict[str, Any]:
    """Print all settings and how the fastest of each library compare."""
    print(f"\n{method}: batch size, seconds, MiB above idle (and seconds of the first call)")
    report: dict[str, Any] = {}
    for setting, row in results.items():
        report.setdefault(setting.library, {})[str(setting)] = row
        print(
            f"  {setting.library:9} {setting!s:16} {row['seconds']:7.2f} {row['memory']:8.0f}   "
            f"({row['first']:.1f})"
        )
    ours, theirs = (
        min(report[library].values(), key=lambda row: row["seconds"]) for library in ("jaxplain", "captum")
    )
    default = report["jaxplain"]["1"]
    ratios = {
        "seconds": theirs["seconds"] / ours["seconds"],
        "memory": theirs["memory"] / max(ours["memory"], 1.0),
        "seconds_of_default": theirs["seconds"] / default["seconds"],
        "memory_of_default": theirs["memory"] / max(default["memory"], 1.0),
    }
    print(
        "  Captum's fastest setting needs {seconds:.2f} times the seconds and {memory:.1f} times the memory "
        "of jaxplain's fastest; {seconds_of_default:.2f} and {memory_of_default:.1f} times those of "
        "jaxplain's default on a CPU".format(**ratios),
        flush=True,
    )
    return {"settings": report, "ratios": ratios}


def main() -> None:
    parser = harness.arguments(__doc__, photos=False)
    parser.add_argument("--rounds", type=int, default=2, metavar="N")
    parser.add_argument("--calls", type=int, default=2, metavar="N", help="warm calls per process")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--maps", action="store_true", help="only compare the maps")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        setting, method, path, calls = json.loads(options.child)
        print(json.dumps(measure_here(Setting(*setting), method, np.load(path), calls)))
        return
    image = cat()
    report: dict[str, Any] = {"maps": compare_maps(image)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.npy")
        np.save(path, image)
        for method in () if options.maps else options.method:
            report[method] = summarize(method, measure(options, method, path))
    harness.save(options, report)


if __name__ == "__main__":
    main()
