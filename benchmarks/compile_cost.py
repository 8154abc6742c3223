"""Compilation cost of explanations: CPU seconds of XLA, and copies of the network in each program.

    python benchmarks/compile_cost.py

EfficientNet-Lite0, one image, masks of 28 x 28, patches of 7 x 7. Copies are the matrix products and
convolutions of the lowered program relative to those of the bare forward pass; forward with backward, with
respect to the input only, counts 2. No compilation cache is read or written.
"""

import re
from collections.abc import Callable
from typing import Any

import harness
import jax
import jax.numpy as jnp

import jaxplain as jx


def operations(lowered: Any) -> int:
    """Count the matrix products and convolutions of a lowered program."""
    return len(re.findall(r"stablehlo\.(?:dot_general|convolution)\b", lowered.as_text()))


def score_and_grad(score: jx.ClassScore, image: jax.Array) -> Any:
    return jax.value_and_grad(lambda image: score(image[None])[0])(image)


def search(score: jx.ClassScore, image: jax.Array) -> Any:
    proposal = jnp.arange(49.0).reshape(7, 7)
    return jx.sag.search(score, image, proposal=proposal)


def curves(score: jx.ClassScore, image: jax.Array) -> Any:
    importance = image[::8, ::8, 0]
    return jx.insertion_deletion(score, image, None, importance)


PROGRAMS: dict[str, Callable[[jx.ClassScore, jax.Array], Any]] = {
    "forward": lambda score, image: score(image[None]),
    "forward with backward": score_and_grad,
    "igos_pp": jx.igos_pp,
    "sag.search": search,
    "sag.proposal_map": jx.sag.proposal_map,
    "insertion_deletion": curves,
}


def main() -> None:
    options = harness.arguments(__doc__, photos=False).parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    model = jx.zoo.load("efficientnet-lite0")
    image = jax.ShapeDtypeStruct((224, 224, 3), jnp.float32)
    results: dict[str, dict[str, float]] = {}
    bare = 0
    print(f"{'program':24} {'CPU s':>7} {'copies':>7}")
    for name, program in PROGRAMS.items():
        lowered = jax.jit(program).lower(jx.class_score(model, 0), image)
        bare = bare or operations(lowered)
        _, seconds = harness.compile_cpu_seconds(lowered)
        results[name] = {"cpu_seconds": seconds, "copies": operations(lowered) / bare}
        print(f"{name:24} {seconds:7.2f} {results[name]['copies']:7.2f}", flush=True)
    harness.save(options, results)


if __name__ == "__main__":
    main()
