"""Explanation networks on 100 bird species: a linear probe on EfficientNet-Lite0, SRAEs for some.

    python benchmarks/xnn.py DIR                        # three gulls and nine more species
    python benchmarks/xnn.py DIR --weights 3,15,0,40    # without the pull-away term
    python benchmarks/xnn.py DIR --sweep 4              # four settings as one vmap against four fits

DIR has images/, images.txt, image_class_labels.txt and train_test_split.txt (1: test), as CUB-200-2011 and
its subsets have. Features are extracted once and kept in a file (--features). All figures are of the test
split: recall and precision of the species with its own logit and with the SRAE's prediction in its place, R^2
and RMSE of the logit, significant x-features an image (over its own photos and all), pull-away, mean
squared correlation, share of the features reconstructed, dominance, dead x-features, rounds, seconds.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain import xnn

SPECIES = (
    "Glaucous_winged_Gull", "Heermann_Gull", "Ivory_Gull", "Eared_Grebe", "Horned_Grebe", "Pied_billed_Grebe",
    "Belted_Kingfisher", "Green_Kingfisher", "Baltimore_Oriole", "Hooded_Oriole", "Black_and_white_Warbler",
    "Downy_Woodpecker",
)  # fmt: skip
BATCH = 16


def read_table(path: Path) -> list[str]:
    """The second column, in order of the first."""
    return [line.split()[1] for line in path.read_text().splitlines() if line.strip()]


def extract(folder: Path, model) -> np.ndarray:
    """Penultimate features of all photos: [N, D]."""
    paths = [folder / "images" / name for name in read_table(folder / "images.txt")]
    run = jax.jit(lambda model, images: model.features(images))
    found = []
    for start in range(0, len(paths), BATCH):
        images = np.stack([model.preprocess(jx.load_image(path)) for path in paths[start : start + BATCH]])
        padded = np.pad(images, [(0, BATCH - len(images)), (0, 0), (0, 0), (0, 0)])
        found.append(np.asarray(run(model, padded))[: len(images)])
    return np.concatenate(found)


def features_of(folder: Path, cache: Path | None, model) -> np.ndarray:
    if cache is not None and cache.exists():
        return np.load(cache)
    found = extract(folder, model)
    if cache is not None:
        np.save(cache, found)
    return found


def table(options, features, labels, names, test, probe) -> None:
    logits = probe(jnp.asarray(features))
    before, rows = logits[test], []
    for name in [name for name in options.species if name in names]:
        target = names.index(name)
        start = time.perf_counter()
        found = jax.block_until_ready(
            xnn.fit(
                features[~test],
                logits[~test, target],
                key=jax.random.key(options.seed),
                weights=options.weights,
            )
        )
        seconds = time.perf_counter() - start
        ask = jax.jit(xnn.diagnose)
        measured = ask(found.srae, features[test], before[:, target])
        own = test & (labels == target)
        few = xnn.significant(found.srae.contributions(features[own])).sum(1).mean()
        after = xnn.replace_logit(before, target, found.srae(features[test])[:, 0])
        (recall, precision), (new_recall, new_precision) = (
            xnn.recall_and_precision(one, labels[test], target) for one in (before, after)
        )
        rows.append([*measured, few, new_recall - recall])
        print(
            f"  {name:24s} recall {recall:.3f} -> {new_recall:.3f}"
            f"  precision {precision:.3f} -> {new_precision:.3f}"
            f"  R2 {measured.r2:.4f}  rmse {measured.rmse:.3f}  significant own {few:.2f} all "
            f"{measured.significant:.2f}  pull-away {measured.pull_away:.3f}  correlation "
            f"{measured.correlation:.3f}  rebuilt {measured.reconstructed:.4f}  dominance "
            f"{measured.dominance:.2f}  dead {measured.dead}  {xnn.Status(int(found.status)).name} "
            f"rounds {found.rounds}  {seconds:.1f} s",
            flush=True,
        )
    means = dict(
        zip([*xnn.Diagnosis._fields, "significant_own", "recall_change"], np.mean(rows, 0), strict=True)
    )
    print("  mean " + "  ".join(f"{name} {value:.3f}" for name, value in means.items()))
    unchanged = sum(row[-1] == 0 for row in rows)
    print(f"  lowest R2 {min(row[1] for row in rows):.4f}; recall unchanged {unchanged} of {len(rows)}")


def sweep(options, features, labels, names, test, probe) -> None:
    """Settings of the pull-away weight as one vmapped call, and one after another; compiled before."""
    logits = probe(jnp.asarray(features))[~test, names.index(options.species[0])]
    strengths = jnp.linspace(0, 40, options.sweep)

    def fit(strength):
        return xnn.fit(
            features[~test],
            logits,
            key=jax.random.key(0),
            weights=(1, 15, strength, 10),
            max_rounds=1,
            epochs=20,
        )

    together = jax.jit(jax.vmap(fit))
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(together(strengths))
        at_once = time.perf_counter() - start
    for _ in range(2):
        start = time.perf_counter()
        for strength in strengths:
            jax.block_until_ready(fit(strength))
        apart = time.perf_counter() - start
    print(f"{options.sweep} fits of 20 epochs: one vmap {at_once:.1f} s, one after another {apart:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--features", type=Path, help="file (.npy) to keep the features in")
    parser.add_argument("--species", nargs="+", default=list(SPECIES))
    parser.add_argument(
        "--weights", type=lambda text: tuple(map(float, text.split(","))), default=xnn.DEFAULT_WEIGHTS
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", type=int, help="only the sweep, of so many settings")
    options = parser.parse_args()
    species = [path.split("/")[0] for path in read_table(options.folder / "images.txt")]
    names = sorted(set(species))
    labels = np.array([names.index(name) for name in species])
    test = np.array(read_table(options.folder / "train_test_split.txt")) == "1"
    features = features_of(options.folder, options.features, jx.zoo.load("efficientnet-lite0"))
    start = time.perf_counter()
    probe = jax.block_until_ready(xnn.linear_probe(features[~test], labels[~test], len(names)))
    right = (np.asarray(probe(features[test])).argmax(1) == labels[test]).mean()
    print(f"linear probe: {right:.4f} of {test.sum()} test photos, {time.perf_counter() - start:.1f} s")
    (sweep if options.sweep else table)(options, features, labels, names, test, probe)


if __name__ == "__main__":
    main()
