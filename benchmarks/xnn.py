"""Explanation networks on bird species: a linear probe on a classifier's features, SRAEs for some species.

    python benchmarks/xnn.py DIR                        # three gulls and nine more species
    python benchmarks/xnn.py DIR --weights 20,15,0,60   # without the pull-away term
    python benchmarks/xnn.py DIR --mse                  # plain squared error instead of the log penalty
    python benchmarks/xnn.py DIR --layer maps           # another layer; --model for another classifier
    python benchmarks/xnn.py DIR --sweep 4              # four settings in one vmap, or in four fits
    python benchmarks/xnn.py DIR --sizes 2,3,4,5,6,8    # the criterion for the number of x-features

DIR has images/, images.txt and train_test_split.txt (1: test), like CUB-200-2011 and its subsets. Features
are extracted once and stored (--store). All figures are of the test split: recall and precision of the
species with its own logit and with the SRAE's prediction instead (precision also among the photos of its most
similar species only), R^2 and RMSE of the logit, agreement of the classification, significant x-features per
image (over the species' own photos, and over all), pull-away, mean squared correlation, share of the features
reconstructed, dominance, dead x-features, rounds, seconds (those of the first species include compilation).
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain import xnn
from jaxplain.runs.features import FeatureStore, LabelledPhoto

SPECIES = (
    "Glaucous_winged_Gull", "Heermann_Gull", "Ivory_Gull", "Eared_Grebe", "Horned_Grebe", "Pied_billed_Grebe",
    "Belted_Kingfisher", "Green_Kingfisher", "Baltimore_Oriole", "Hooded_Oriole", "Black_and_white_Warbler",
    "Downy_Woodpecker",
)  # fmt: skip
N_SIMILAR = 5
_SMALL_Q = 1e-4  # log(1 + q x) / q -> x

# ---------------------------------------------------------------------------------------------------------
# Features and probe


class Birds(NamedTuple):
    """Features and logits of N photos of K species."""

    names: list[str]  # [K]
    labels: np.ndarray  # int [N]
    test: np.ndarray  # bool [N]
    features: np.ndarray  # [N, D]
    logits: np.ndarray  # [N, K], of the probe

    def index(self, species: str) -> int:
        """Return the number of a species."""
        return self.names.index(species)


def second_column(path: Path) -> list[str]:
    """Return the second column of a table, in the order of the rows."""
    return [line.split()[1] for line in path.read_text().splitlines() if line.strip()]


def load(options: argparse.Namespace) -> Birds:
    """Extract the features and fit the probe."""
    files = second_column(options.folder / "images.txt")
    species = [name.split("/")[0] for name in files]
    names = sorted(set(species))
    labels = np.array([names.index(name) for name in species])
    test = np.array(second_column(options.folder / "train_test_split.txt")) == "1"
    features = extract(options, [options.folder / "images" / name for name in files])
    probe, seconds = harness.timed(lambda: xnn.linear_probe(features[~test], labels[~test], len(names)))
    logits = np.asarray(probe(jnp.asarray(features)))
    accuracy = (logits[test].argmax(1) == labels[test]).mean()
    print(f"linear probe: accuracy {accuracy:.4f} on {test.sum()} test photos, {seconds:.1f} s", flush=True)
    return Birds(names, labels, test, features, logits)


def extract(options: argparse.Namespace, paths: list[Path]) -> np.ndarray:
    """Return the features of photos: [N, D]."""
    photos = [
        LabelledPhoto(path, path.parent.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths
    ]
    store = FeatureStore(options.store, jx.zoo.load(options.model), options.layer)
    extraction, seconds = harness.timed(lambda: store.extract(photos))
    if extraction.failures:
        raise SystemExit(f"a photo cannot be read: {extraction.failures[0]}")
    print(f"features: {extraction.extracted} extracted, {seconds:.1f} s", flush=True)
    return extraction.features


# ---------------------------------------------------------------------------------------------------------
# One SRAE per species


def table(options: argparse.Namespace, birds: Birds) -> list[dict[str, Any]]:
    """Fit and evaluate an SRAE for each species; print means."""
    rows = [fit_species(options, birds, name) for name in options.species if name in birds.names]
    if not rows:
        raise SystemExit("DIR has none of the species: name some with --species")
    numeric = [name for name in rows[0] if name not in ("species", "status")]
    means = {name: float(np.mean([row[name] for row in rows])) for name in numeric}
    print("  mean " + "  ".join(f"{name} {value:.3f}" for name, value in means.items()))
    unchanged = sum(row["new_recall"] == row["recall"] for row in rows)
    lowest = min(row["r2"] for row in rows)
    print(f"  lowest R2 {lowest:.4f}; recall unchanged for {unchanged} of {len(rows)} species")
    return rows


def fit_species(options: argparse.Namespace, birds: Birds, name: str) -> dict[str, Any]:
    target, test, labels = birds.index(name), birds.test, birds.labels[birds.test]
    train_features, train_logits = birds.features[~test], birds.logits[~test]
    fitted, seconds = harness.timed(
        lambda: xnn.fit(
            train_features,
            train_logits[:, target],
            key=jax.random.key(options.seed),
            weights=options.weights,
            q=options.q,
        )
    )
    features, before = birds.features[test], jnp.asarray(birds.logits[test])
    after = xnn.replace_logit(before, target, fitted.srae(features)[:, 0])
    diagnosis = xnn.diagnose(fitted.srae, features, before[:, target], every_logit=before, label=target)
    similar = most_similar(train_logits, birds.labels[~test], target)
    among = np.isin(labels, [target, *similar])
    row: dict[str, Any] = {"species": name}
    for prefix, logits in (("", before), ("new_", after)):
        recall, precision = xnn.recall_and_precision(logits, labels, target)
        _, among_precision = xnn.recall_and_precision(logits[among], labels[among], target)
        row |= {f"{prefix}recall": float(recall), f"{prefix}precision": float(precision)}
        row[f"{prefix}precision_among_similar"] = float(among_precision)
    own = xnn.significant(fitted.srae.contributions(features[labels == target]))
    row |= {key: float(value) for key, value in diagnosis._asdict().items() if key != "locality"}
    row |= {"significant_own": float(own.sum(1).mean()), "rounds": int(fitted.rounds), "seconds": seconds}
    row["status"] = jx.Status(int(fitted.status)).name
    print(
        "  {species:24s} recall {recall:.3f} -> {new_recall:.3f}  precision {precision:.3f} -> "
        "{new_precision:.3f}  among similar species {precision_among_similar:.3f} -> "
        "{new_precision_among_similar:.3f}  agreement {agreement:.4f}  R2 {r2:.4f}  rmse {rmse:.3f}  "
        "significant own {significant_own:.2f} all {significant:.2f}  pull-away {pull_away:.3f}  correlation "
        "{correlation:.3f}  reconstructed {reconstructed:.4f}  dominance {dominance:.2f}  dead {dead:.0f}  "
        "{status} rounds {rounds}  {seconds:.1f} s".format(**row),
        flush=True,
    )
    return row


def most_similar(logits: np.ndarray, labels: np.ndarray, target: int) -> np.ndarray:
    """Return the other classes whose photos have the largest mean logit of the target."""
    means = np.array([logits[labels == label, target].mean() for label in range(logits.shape[1])])
    means[target] = -np.inf
    return np.argsort(means)[::-1][:N_SIMILAR]


# ---------------------------------------------------------------------------------------------------------
# Sweeps


def sweep(options: argparse.Namespace, birds: Birds) -> dict[str, float]:
    """Time fits with several pull-away weights in one vmapped call, and one after another; both compiled."""
    features = birds.features[~birds.test]
    logits = birds.logits[~birds.test, birds.index(options.species[0])]
    strengths = jnp.linspace(0, 40, options.sweep)
    first, rest = options.weights[:2], options.weights[3:]

    def fit(strength: jax.Array) -> xnn.FitResult:
        weights = (*first, strength, *rest)
        key = jax.random.key(0)
        return xnn.fit(features, logits, key=key, weights=weights, max_rounds=1, epochs=options.epochs)

    together = jax.jit(jax.vmap(fit))
    vmapped = harness.least_seconds(lambda: together(strengths), 1)
    jax.block_until_ready(fit(strengths[0]))
    _, separate = harness.timed(lambda: [fit(strength) for strength in strengths])
    print(
        f"{options.sweep} fits of {options.epochs} epochs: one vmap {vmapped:.1f} s, one after another "
        f"{separate:.1f} s, ratio {vmapped / separate:.2f}"
    )
    return {"vmapped": vmapped, "separate": separate}


def sizes(options: argparse.Namespace, birds: Birds) -> list[dict[str, Any]]:
    """Print the criterion for several numbers of x-features, and what it consists of."""
    features, logits, test = birds.features, birds.logits, birds.test
    rows = []
    for name in options.species[:3]:
        target = birds.index(name)
        selection = xnn.select_n_features(
            features[~test], logits[~test, target], key=jax.random.key(0), candidates=options.sizes
        )
        for n, fitted in selection.fits.items():
            diagnosis = xnn.diagnose(fitted.srae, features[test], logits[test, target])
            row = {
                "species": name,
                "n": n,
                "criterion": float(selection.criteria[n]),
                "loss": float(fitted.validation.total[fitted.best_epoch]),
                "r2": float(diagnosis.r2),
                "significant": float(diagnosis.significant),
                "pull_away": float(diagnosis.pull_away),
            }
            rows.append(row)
            print(
                "  {species} n {n}  criterion {criterion:.2f}  loss {loss:.2f}  R2 {r2:.4f}  significant "
                "{significant:.2f}  pull-away {pull_away:.3f}".format(**row),
                flush=True,
            )
        print(f"  {name}: {selection.n_features} x-features")
    return rows


def main() -> None:
    parser = harness.arguments(__doc__, photos=False)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--store", type=Path, default=Path("xnn-features"), help="folder for the features")
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--layer", default="penultimate", choices=("penultimate", "maps"))
    parser.add_argument("--mse", action="store_true", help="plain squared error of the reconstruction")
    parser.add_argument("--species", nargs="+", default=list(SPECIES), metavar="NAME")
    parser.add_argument("--weights", type=harness.comma_separated(float), default=xnn.DEFAULT_WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", type=int, metavar="N", help="only time a sweep over N settings")
    parser.add_argument("--epochs", type=int, default=120, help="epochs of the sweep")
    parser.add_argument("--sizes", type=harness.comma_separated(int), help="only compare these numbers")
    options = parser.parse_args()
    options.q = 100.0
    if options.mse:  # with as much weight as the log penalty has where nothing is reconstructed
        full = options.weights[1] * np.log1p(options.q)
        options.weights, options.q = (options.weights[0], full / _SMALL_Q, *options.weights[2:]), _SMALL_Q
    work = sweep if options.sweep else sizes if options.sizes else table
    harness.save(options, work(options, load(options)))


if __name__ == "__main__":
    main()
