"""The comparison of throughput.py --torch: iGOS++ in eager PyTorch (torch_igos.py) and in jaxplain."""

import argparse
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import torch_igos
from harness import least_seconds

import jaxplain as jx


class Fastest(NamedTuple):
    """jaxplain's fastest setting of iGOS++ for one mask size and dtype."""

    setting: Any  # steps.Setting
    run: Callable[[], Any]  # -> steps.Explained
    row: Mapping[str, Any]  # of the table
    chosen: Mapping[str, Any]  # options of `jaxplain.igos_pp`, all of them


def torch_device() -> str | None:
    """Return PyTorch's name of the device that JAX uses; None if PyTorch cannot use it."""
    if jax.default_backend() == "cpu":
        return "cpu"
    return "cuda" if jax.default_backend() in ("gpu", "cuda") and torch.cuda.is_available() else None


def compare(
    options: argparse.Namespace,
    model: jx.zoo.ZooClassifier,
    pictures: Any,
    fastest: list[Fastest],
    deadline: float,
) -> list[dict[str, Any]]:
    """Compare PyTorch's fastest setting with jaxplain's, alternately, for each mask size and dtype.

    Args:
      options: of the command line.
      model: of the zoo, in float32.
      pictures: images, baselines and targets, arrays of the same length.
      fastest: jaxplain's settings.
      deadline: no comparison starts after this time, in `time.perf_counter` seconds.
    """
    device = torch_device()
    if device is None:
        print("no comparison: PyTorch cannot use this device")
        return []
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # as JAX's default on a GPU; convolutions have it by default
    print(f"\niGOS++ in PyTorch {torch.__version__} on {device}, eager, channels_last")
    rows = []
    for ours in fastest:
        if time.perf_counter() > deadline:
            print(f"size {ours.setting.size} {ours.setting.dtype} skipped: --budget is spent")
        else:
            rows.append(_compare_one(options, model, pictures, ours, device))
    return rows


def _compare_one(
    options: argparse.Namespace, model: jx.zoo.ZooClassifier, pictures: Any, ours: Fastest, device: str
) -> dict[str, Any]:
    setting = ours.setting
    title = f"size {setting.size} {setting.dtype}"
    dtype = getattr(torch, setting.dtype)
    network = torch_igos.network(options.model, model, device, dtype)

    def runner(images: int, batch: int) -> Callable[[], tuple[np.ndarray, dict[str, int]]]:
        arrays = [np.asarray(leaf[:images]) for leaf in pictures]
        run = torch_igos.igos_pp(
            network, *arrays, device=device, dtype=dtype, chosen=ours.chosen, batch=batch
        )

        def finished() -> tuple[np.ndarray, dict[str, int]]:
            masks, passes = run()
            return masks.cpu().numpy(), passes  # waits for the device

        return finished

    rates = {}
    for images, batch in itertools.product(options.torch_images, options.torch_batch):
        try:
            rates[images, batch] = images / least_seconds(runner(images, batch), 1)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        rate = rates[images, batch]
        print(f"  {title}: {images} images, batch {batch}: {rate:.3f} images/s", flush=True)
    if not rates:
        return {**setting._asdict(), "error": "out of memory"}
    images, batch = max(rates, key=rates.__getitem__)
    row = {
        **setting._asdict(),
        "torch_images": images,
        "torch_batch": batch,
        "rates": {f"{images} x {batch}": rate for (images, batch), rate in rates.items()},
        **_alternate(ours, runner(images, batch), images, options.rounds),
    }
    ratio, best, alike = row["ratio"], row["images_per_second"], row["correlations"]
    print(
        f"{title}: jaxplain {best['jaxplain']:.3f} images/s ({setting.images} images, batch "
        f"{setting.batch}), PyTorch {best['torch']:.3f} ({images} images, batch {batch}), ratio {ratio:.2f}; "
        f"correlation of masks {np.mean(alike):.4f} (minimum {np.min(alike):.4f}) over {len(alike)} images; "
        f"forward, forward + backward passes per image {row['passes_per_image']}",
        flush=True,
    )
    return row


def _alternate(ours: Fastest, theirs: Callable[[], Any], images: int, rounds: int) -> dict[str, Any]:
    """Time both alternately and compare their masks and passes."""
    count = ours.setting.images
    theirs_masks, passes = theirs()
    pairs = list(zip(np.asarray(ours.run().mask), theirs_masks, strict=False))
    seconds: dict[str, list[float]] = {"jaxplain": [], "torch": []}
    for _ in range(rounds):
        # The first call of each turn is not counted: the other library's threads may still be spinning.
        seconds["jaxplain"].append(least_seconds(ours.run, 1) / count)
        seconds["torch"].append(least_seconds(theirs, 1) / images)
    rates = {name: 1 / min(spent) for name, spent in seconds.items()}
    return {
        "images_per_second": rates,
        "ratio": rates["jaxplain"] / rates["torch"],
        "correlations": [correlation(*pair) for pair in pairs],
        "largest_difference": float(max(np.abs(one - other).max() for one, other in pairs)),
        "passes_per_image": {
            "jaxplain": [ours.row[f"{name}_passes"] / count for name in ("forward", "backward")],
            "torch": [passes[name] / images for name in ("forward", "backward")],
        },
    }


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of two masks; 1 if both are constant."""
    if np.ptp(one) < 1e-6 and np.ptp(other) < 1e-6:
        return 1.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
