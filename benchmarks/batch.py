"""Overhead of a run over a data set relative to its model, and whether its memory stays constant.

    python benchmarks/batch.py --images 24          # overhead
    python benchmarks/batch.py --memory 2000        # memory

Overhead: iGOS++ (28 x 28, with deletion and insertion) of EfficientNet-Lite0 on foolbox's photos, from files
to committed rows. Its lower bound is the same number of forward, and forward and backward, passes in a bare
compiled loop, in batches of one, as the funnel makes them on a CPU. Both alternate `--rounds` times;
compilation is not counted. Memory: resident memory of the process after every hundred images of a run of
input x gradient over synthetic photos.
"""

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import harness
import jax
import numpy as np

import jaxplain as jx
from jaxplain.runs.batch import Example, Progress, explain_dataset, make_recipe

# iGOS++ by default: 8 iterations of 4 terms at 3 nodes; in each, 4 candidates of 4 terms at the path's end;
# the initial masks, the image and its baseline. Then the two curves, and the score stored in the row.
BACKWARD = 8 * 4 * 3
FORWARD = 8 * 4 * 4 + 4 + 2 + 2 * 51 + 1


def bare_loop(model: jx.zoo.ZooClassifier, image: jax.Array) -> Callable[[], jax.Array]:
    """Return a compiled call that makes the passes of one image and nothing else."""

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


class RepeatedPhotos:
    """A data set in which a few photos recur under different names."""

    def __init__(self, model: jx.zoo.ZooClassifier, paths: list[Path], count: int) -> None:
        self.model, self.paths = model, paths
        self.identities = [f"{number} {paths[number % len(paths)].name}" for number in range(count)]

    def load(self, index: int) -> Example:
        """Read a photo."""
        rgb = jx.load_image(self.paths[index % len(self.paths)])
        return Example(self.identities[index], self.model.crop_and_resize(rgb))


def overhead(model: jx.zoo.ZooClassifier, images: int, rounds: int) -> list[dict[str, float]]:
    """Measure seconds per image of the run and of the bare loop, alternately."""
    paths = harness.foolbox()
    data = RepeatedPhotos(model, paths, images)
    bare = bare_loop(model, harness.cropped(paths[0], model))
    bare()
    rows = []
    for _ in range(rounds):
        _, bare_seconds = harness.timed(lambda: [bare() for _ in range(images)])
        with tempfile.TemporaryDirectory() as folder:
            outcome = explain_dataset(make_recipe("igos++"), model, data, out=Path(folder, "results.zarr"))
        row = {"bare": bare_seconds / images, "run": outcome.progress.seconds / images}
        rows.append(row | {"share": row["bare"] / row["run"]})
        print("seconds per image: bare loop {bare:.3f}, run {run:.3f}; share {share:.3f}".format(**rows[-1]))
    print(f"share of the run spent in the model: median {np.median([row['share'] for row in rows]):.3f}")
    return rows


def memory(model: jx.zoo.ZooClassifier, count: int) -> list[float]:
    """Measure resident memory in the course of a run over many images, in MiB."""
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
            sizes.append(harness.resident_mib())
            print(f"{progress.done:6} images  {sizes[-1]:7.0f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        stream = map(draw, range(count))
        explain_dataset(explain, model, stream, out=Path(folder, "r.zarr"), on_progress=on_progress)
    later = sizes[len(sizes) // 4 :]
    if later:
        print(f"after the first quarter: {min(later):.0f} to {max(later):.0f} MiB")
    return sizes


def main() -> None:
    parser = harness.arguments(__doc__, photos=False)
    parser.add_argument("--images", type=int, default=24, metavar="N", help="images per run")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory over N images instead")
    options = parser.parse_args()
    model = jx.zoo.load("efficientnet-lite0")
    if options.memory:
        harness.save(options, memory(model, options.memory))
    else:
        harness.save(options, overhead(model, options.images, options.rounds))


if __name__ == "__main__":
    main()
