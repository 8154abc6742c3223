"""Top-1 accuracy of the zoo's models, each with its own preprocessing.

python benchmarks/accuracy.py                       # foolbox's 20 ImageNet photos
python benchmarks/accuracy.py --photos DIR          # a folder of CLASS_name.JPEG
python benchmarks/accuracy.py --model squeezenet1_0 --weights FILE
"""

from pathlib import Path

import harness

import jaxplain as jx


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--model", nargs="+", default=[f"efficientnet-lite{number}" for number in range(3)])
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights of a model without its own")
    options = parser.parse_args()
    paths = harness.chosen_photos(options)
    correct = {}
    for name in options.model:
        model = jx.zoo.load(name, weights=options.weights)
        correct[name] = [path.name for path in harness.correctly_classified(paths, model)]
        print(f"{name}: {len(correct[name])} of {len(paths)} photos correctly classified", flush=True)
    harness.save(options, {"photos": [path.name for path in paths], "correct": correct})


if __name__ == "__main__":
    main()
