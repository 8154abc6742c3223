"""What compiling an explanation costs: XLA's CPU seconds, and how many copies of the network a program holds.

    python benchmarks/compile_cost.py

EfficientNet-Lite0, one image, masks of 28 x 28, patches of 7 x 7. Copies are counted as matrix products and
convolutions of the lowered program, relative to those of the bare forward pass; forward with backward in the
input alone counts 2. Nothing is read from or written to a compilation cache.
"""

import re

import harness
import jax
import jax.numpy as jnp

import jaxplain as jx


def operations(lowered) -> int:
    """Matrix products and convolutions of a lowered program."""
    return len(re.findall(r"stablehlo\.(?:dot_general|convolution)\b", lowered.as_text()))


def programs(model, image, target):
    """By name: a function of (model, image, target) to compile."""

    def score(model, target):
        return jx.class_score(model, target)

    def search(model, image, target):
        baseline, proposal = jx.blur_baseline(image), jnp.arange(49.0).reshape(7, 7)
        return jx.sag.search(score(model, target), image, baseline, proposal=proposal)

    def curves(model, image, target):
        importance = image[::8, ::8, 0]
        return jx.insertion_deletion(score(model, target), image, jx.blur_baseline(image), importance)

    return {
        "forward": lambda model, image, target: score(model, target)(image[None]),
        "forward with backward": lambda model, image, target: jax.value_and_grad(
            lambda shown: score(model, target)(shown[None])[0]
        )(image),
        "igos_pp": lambda model, image, target: jx.igos_pp(score(model, target), image),
        "sag.search": search,
        "sag.proposal_map": lambda model, image, target: jx.sag.proposal_map(score(model, target), image),
        "insertion_deletion": curves,
    }


def main() -> None:
    options = harness.arguments(__doc__, photos=False).parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    model = jx.zoo.load("efficientnet-lite0")
    image, target = jax.ShapeDtypeStruct((224, 224, 3), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    results, bare = {}, 0
    print(f"{'program':24} {'CPU s':>7} {'copies':>7}")
    for name, function in programs(model, image, target).items():
        lowered = jax.jit(function).lower(model, image, target)
        bare = bare or operations(lowered)
        _, seconds = harness.compile_cpu_seconds(lowered)
        results[name] = {"cpu_seconds": seconds, "copies": operations(lowered) / bare}
        print(f"{name:24} {seconds:7.2f} {results[name]['copies']:7.2f}", flush=True)
    harness.save(options, results)


if __name__ == "__main__":
    main()
