"""Speed of EfficientNet-Lite0 on this machine's CPU: jaxplain and PyTorch, side by side in one run.

    pip install -e ".[bench]" && python benchmarks/speed.py

Milliseconds per image, forward and forward + backward (gradient with respect to the input only), over 20
images, a batch at a time: jaxplain in one compiled loop, as its funnel does, PyTorch in a Python loop; each
at its best batch size. Warm, the shortest of several rounds; the libraries alternate, so that a busy machine
slows both. Compilation time is reported separately.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch_igos import lite0

import jaxplain as jx

IMAGES = 20
CALLS = 2  # counted calls per turn
Runs = dict[int, Callable[[], Any]]  # by batch size


def jax_runs(backward: bool, batches: list[int]) -> tuple[Runs, dict[int, float]]:
    """Return a warm call for each batch size, and the seconds that its compilation took."""
    model = jx.zoo.load("efficientnet-lite0")

    def forward(model: Any, images: jax.Array) -> jax.Array:
        return model(images)[:, 0].sum()

    def one_batch(model: Any, images: jax.Array) -> jax.Array:
        return jax.grad(forward, argnums=1)(model, images) if backward else forward(model, images)

    function = jax.jit(lambda model, batches: jax.lax.map(partial(one_batch, model), batches))
    runs, compile_seconds = {}, {}
    for batch in batches:
        shape = (IMAGES // batch, batch, 224, 224, 3)
        images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        program, compile_seconds[batch] = harness.timed(lambda x=images: function.lower(model, x).compile())
        runs[batch] = lambda program=program, x=images: program(model, x)
    return runs, compile_seconds


def torch_runs(backward: bool, batches: list[int], threads: int) -> Runs:
    """Return the same in PyTorch: channels_last, no gradients for parameters."""
    torch.set_num_threads(threads)
    model = lite0().eval().to(memory_format=torch.channels_last).requires_grad_(False)
    runs = {}
    for batch in batches:
        images = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)

        def forward(images: torch.Tensor = images) -> torch.Tensor:
            with torch.no_grad():
                return model(images)[:, 0].sum()

        def both(images: torch.Tensor = images) -> torch.Tensor:
            leaf = images.clone().requires_grad_(True)
            model(leaf)[:, 0].sum().backward()
            return leaf.grad

        one_batch = both if backward else forward
        runs[batch] = lambda run=one_batch, times=IMAGES // batch: [run() for _ in range(times)]
    return runs


def measure(backward: bool, batches: list[int], rounds: int, threads: int) -> dict[str, Any]:
    """Measure and print one direction."""
    ours, compile_seconds = jax_runs(backward, batches)
    by_library = {"jaxplain": ours, "torch": torch_runs(backward, batches, threads)}
    runs = {(name, batch): by_library[name][batch] for batch in batches for name in by_library}
    seconds = harness.in_turns(runs, rounds, CALLS)
    ms = {name: {b: 1e3 * seconds[name, b] / IMAGES for b in batches} for name in by_library}
    best = {name: min(by_batch.items(), key=lambda item: item[1]) for name, by_batch in ms.items()}
    ratio = best["jaxplain"][1] / best["torch"][1]
    print(f"{'forward + backward' if backward else 'forward'}: ms per image by batch size")
    for name, by_batch in ms.items():
        cells = "  ".join(f"{batch:>3}: {value:6.1f}" for batch, value in by_batch.items())
        print(f"  {name:9} {cells}   best {best[name][1]:.1f} at {best[name][0]}")
    first = compile_seconds[batches[0]]
    print(
        f"  jaxplain / torch at their best: {ratio:.2f}; compilation {first:.1f} s at batch {batches[0]}",
        flush=True,
    )
    return {"ms": ms, "best": best, "ratio": ratio, "compile_seconds": compile_seconds}


def main() -> None:
    parser = harness.arguments(__doc__, photos=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2, 4, 5, 10, 20], help="batch sizes")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    options = parser.parse_args()
    results = {
        name: measure(backward, options.batch, options.rounds, options.threads)
        for name, backward in (("forward", False), ("forward+backward", True))
    }
    harness.save(options, results)


if __name__ == "__main__":
    main()
