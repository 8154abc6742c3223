"""Explanation networks on 100 bird species: a linear probe on a classifier's features, SRAEs for some.

    python benchmarks/xnn.py DIR                        # three gulls and nine more species
    python benchmarks/xnn.py DIR --weights 20,15,0,60   # without the pull-away term
    python benchmarks/xnn.py DIR --mse                  # plain squared error in place of the log penalty
    python benchmarks/xnn.py DIR --layer maps           # another layer; --model for another classifier
    python benchmarks/xnn.py DIR --sweep 4              # four settings as one vmap against four fits
    python benchmarks/xnn.py DIR --sizes 2,3,4,5,6,8    # the criterion for the number of x-features

DIR has images/, images.txt and train_test_split.txt (1: test), as CUB-200-2011 and its subsets have. Features
are extracted once and kept (--store). All figures are of the test split: recall and precision of the species
with its own logit and with the SRAE's prediction in its place (precision also among the photos of its nearest
look-alikes only), R^2 and RMSE of the logit, agreement of the classification, significant x-features an image
(over its own photos and all), pull-away, mean squared correlation, share of the features reconstructed,
dominance, dead x-features, rounds, seconds (the first species' with compilation).
"""

import argparse
import hashlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain import xnn
from jaxplain.explanation import Status
from jaxplain.runs.features import FeatureStore, LabelledPhoto

SPECIES = (
    "Glaucous_winged_Gull", "Heermann_Gull", "Ivory_Gull", "Eared_Grebe", "Horned_Grebe", "Pied_billed_Grebe",
    "Belted_Kingfisher", "Green_Kingfisher", "Baltimore_Oriole", "Hooded_Oriole", "Black_and_white_Warbler",
    "Downy_Woodpecker",
)  # fmt: skip
LOOK_ALIKES = 5
_SMALL_Q = 1e-4  # log(1 + q x) / q -> x


def read_table(path: Path) -> list[str]:
    """The second column, in order of the first."""
    return [line.split()[1] for line in path.read_text().splitlines() if line.strip()]


def features_of(options) -> np.ndarray:
    """Features of all photos, in order: [N, D]."""
    names = read_table(options.folder / "images.txt")
    paths = [options.folder / "images" / name for name in names]
    photos = [
        LabelledPhoto(path, path.parent.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths
    ]
    store = FeatureStore(options.store, jx.zoo.load(options.model), options.layer)
    start = time.perf_counter()
    found = store.extract(photos)
    assert len(found.photos) == len(photos), found.failures
    print(f"features: {found.extracted} extracted, {time.perf_counter() - start:.1f} s")
    return found.features


def look_alikes(logits: np.ndarray, labels: np.ndarray, target: int) -> np.ndarray:
    """The classes whose photos have the largest mean logit of the target."""
    means = [logits[labels == at, target].mean() for at in range(logits.shape[1])]
    return np.array([at for at in np.argsort(means)[::-1] if at != target][:LOOK_ALIKES])


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
                q=options.q,
            )
        )
        seconds = time.perf_counter() - start
        truth = before[:, target]
        measured = xnn.diagnose(found.srae, features[test], truth, every_logit=before, label=target)
        own = test & (labels == target)
        few = xnn.significant(found.srae.contributions(features[own])).sum(1).mean()
        after = xnn.replace_logit(before, target, found.srae(features[test])[:, 0])
        (recall, precision), (new_recall, new_precision) = (
            xnn.recall_and_precision(one, labels[test], target) for one in (before, after)
        )
        near = look_alikes(np.asarray(logits[~test]), labels[~test], target)
        among = np.isin(labels[test], [target, *near])
        among_before, among_after = (
            xnn.recall_and_precision(one[among], labels[test][among], target)[1] for one in (before, after)
        )
        rows.append([*measured, few, new_recall - recall])
        print(
            f"  {name:24s} recall {recall:.3f} -> {new_recall:.3f}"
            f"  precision {precision:.3f} -> {new_precision:.3f}"
            f"  among look-alikes {among_before:.3f} -> {among_after:.3f}  agreement {measured.agreement:.4f}"
            f"  R2 {measured.r2:.4f}  rmse {measured.rmse:.3f}  significant own {few:.2f} all "
            f"{measured.significant:.2f}  pull-away {measured.pull_away:.3f}  correlation "
            f"{measured.correlation:.3f}  rebuilt {measured.reconstructed:.4f}  dominance "
            f"{measured.dominance:.2f}  dead {measured.dead}  {Status(int(found.status)).name} "
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
    first, rest = options.weights[:2], options.weights[3:]

    def fit(strength):
        weights = (*first, strength, *rest)
        return xnn.fit(
            features[~test],
            logits,
            key=jax.random.key(0),
            weights=weights,
            max_rounds=1,
            epochs=options.epochs,
        )

    together = jax.jit(jax.vmap(fit))
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(together(strengths))
        at_once = time.perf_counter() - start
    jax.block_until_ready(fit(strengths[0]))
    start = time.perf_counter()
    for strength in strengths:
        jax.block_until_ready(fit(strength))
    apart = time.perf_counter() - start
    print(
        f"{options.sweep} fits of {options.epochs} epochs: one vmap {at_once:.1f} s, one after another "
        f"{apart:.1f} s, ratio {at_once / apart:.2f}"
    )


def sizes(options, features, labels, names, test, probe) -> None:
    """The criterion over numbers of x-features, and what it is made of."""
    logits = probe(jnp.asarray(features))
    for name in options.species[:3]:
        target = names.index(name)
        found = xnn.select_n_features(
            features[~test], logits[~test, target], key=jax.random.key(0), candidates=options.sizes
        )
        for n, fitted in found.fits.items():
            measured = xnn.diagnose(fitted.srae, features[test], logits[test, target])
            print(
                f"  {name} n {n}  criterion {found.criteria[n]:.2f}"
                f"  loss {fitted.validation.total[fitted.best_epoch]:.2f}  R2 {measured.r2:.4f}"
                f"  significant {measured.significant:.2f}  pull-away {measured.pull_away:.3f}",
                flush=True,
            )
        print(f"  {name}: {found.n_features} x-features")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", type=Path, default=Path("xnn-features"), help="where features are kept")
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--layer", default="penultimate", help="penultimate or maps")
    parser.add_argument("--mse", action="store_true", help="plain squared error of the reconstruction")
    parser.add_argument("--species", nargs="+", default=list(SPECIES))
    parser.add_argument(
        "--weights", type=lambda text: tuple(map(float, text.split(","))), default=xnn.DEFAULT_WEIGHTS
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", type=int, help="only the sweep, of so many settings")
    parser.add_argument("--epochs", type=int, default=120, help="of the sweep")
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), help="only select")
    options = parser.parse_args()
    options.q = 100.0
    if options.mse:  # as much as the log penalty counts where nothing is reconstructed
        full = options.weights[1] * np.log1p(options.q)
        options.weights, options.q = (options.weights[0], full / _SMALL_Q, *options.weights[2:]), _SMALL_Q
    species = [path.split("/")[0] for path in read_table(options.folder / "images.txt")]
    names = sorted(set(species))
    labels = np.array([names.index(name) for name in species])
    test = np.array(read_table(options.folder / "train_test_split.txt")) == "1"
    features = features_of(options)
    start = time.perf_counter()
    probe = jax.block_until_ready(xnn.linear_probe(features[~test], labels[~test], len(names)))
    right = (np.asarray(probe(features[test])).argmax(1) == labels[test]).mean()
    print(f"linear probe: {right:.4f} of {test.sum()} test photos, {time.perf_counter() - start:.1f} s")
    work = sweep if options.sweep else sizes if options.sizes else table
    work(options, features, labels, names, test, probe)


if __name__ == "__main__":
    main()
