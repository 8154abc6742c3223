"""What a run over a data set costs beside its model, and whether its memory stays flat.

    python benchmarks/batch.py --images 24          # overhead
    python benchmarks/batch.py --flat 2000          # memory

Overhead: iGOS++ (28 x 28, with deletion and insertion) of EfficientNet-Lite0 on foolbox's photos, from
files to committed rows, against the floor, the same number of forward and of forward and backward passes in a
bare compiled loop (batches of one, as the funnel makes them on a CPU). Both take turns, `--rounds` times;
compiling is apart. Memory: resident size of the process every hundred images of a run of input x gradient
over synthetic photos.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import photos

import jaxplain as jx
from jaxplain.runs.batch import Example, Progress, explain_dataset, make_recipe

# iGOS++ by default: 8 iterations of 4 terms at 3 nodes; 4 candidates of 4 terms at the path's end in each;
# the first masks, the image and its baseline. Then the two curves, and the score of the row.
BACKWARD = 8 * 4 * 3
FORWARD = 8 * 4 * 4 + 4 + 2 + 2 * 51 + 1


def bare_loop(model: jx.zoo.ZooClassifier, image: jax.Array) -> Callable[[], None]:
    """The passes of one image through the model and nothing else."""

    def passes(model: jx.zoo.ZooClassifier, image: jax.Array) -> jax.Array:
        def score(image: jax.Array) -> jax.Array:
            return jax.nn.softmax(model(image[None]))[0, 0]

        def forward(image: jax.Array, _: None) -> tuple[jax.Array, None]:
            return image + 1e-6 * score(image), None

        def backward(image: jax.Array, _: None) -> tuple[jax.Array, None]:
            return image + 1e-6 * jax.grad(score)(image), None

        image, _ = jax.lax.scan(backward, image, None, BACKWARD)
        return jax.lax.scan(forward, image, None, FORWARD)[0]

    compiled = jax.jit(passes).lower(model, image).compile()
    return lambda: jax.block_until_ready(compiled(model, image))


class Copies:
    """A data set of photos that come again and again, under names of their own."""

    def __init__(self, model: jx.zoo.ZooClassifier, paths: list[Path], count: int) -> None:
        self.model, self.paths = model, paths
        self.identities = [f"{number} {paths[number % len(paths)].name}" for number in range(count)]

    def load(self, row: int) -> Example:
        """Read a photo."""
        rgb = jx.load_image(self.paths[row % len(self.paths)])
        return Example(self.identities[row], self.model.crop_and_resize(rgb))


def overhead(images: int, rounds: int) -> None:
    """Seconds an image of the run and of the floor, in turns."""
    model, paths = jx.zoo.load("efficientnet-lite0"), photos.foolbox()
    data = Copies(model, paths, images)
    floor = bare_loop(model, model.preprocess(jx.load_image(paths[0])))
    floor()
    shares = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(images):
            floor()
        bare = (time.perf_counter() - start) / images
        with tempfile.TemporaryDirectory() as folder:
            done = explain_dataset(make_recipe("igos++"), model, data, out=Path(folder, "results.zarr"))
        whole = done.progress.seconds / images
        shares.append(bare / whole)
        print(f"seconds an image: floor {bare:.3f}, run {whole:.3f}; share {shares[-1]:.3f}", flush=True)
    print(f"share of a run inside the model: median {np.median(shares):.3f}")


def flat(count: int) -> None:
    """Resident memory along a run of many images."""
    model = jx.zoo.load("efficientnet-lite0")
    sizes: list[float] = []

    def draw(number: int) -> Example:
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), np.uint8)
        return Example(str(number), np.kron(pixels, np.ones((8, 8, 1), np.uint8)))

    def explain(
        model: jx.zoo.ZooClassifier, image: jax.Array, target: jax.Array, key: jax.Array
    ) -> jax.Array:
        return jx.attributions.input_x_gradient(jx.class_score(model, target), image).importance

    def on_progress(progress: Progress) -> None:
        if progress.done // 100 > len(sizes):
            gc.collect()
            sizes.append(resident())
            print(f"{progress.done:6} images  {sizes[-1]:7.0f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        stream = map(draw, range(count))
        explain_dataset(explain, model, stream, out=Path(folder, "r.zarr"), on_progress=on_progress)
    later = sizes[len(sizes) // 4 :]
    print(f"after the first quarter: {min(later):.0f} to {max(later):.0f} MiB")


def resident() -> float:
    """Resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flat", type=int, metavar="N", help="measure memory over N images instead")
    options = parser.parse_args()
    if options.flat:
        flat(options.flat)
    else:
        overhead(options.images, options.rounds)


if __name__ == "__main__":
    main()
