"""How many photos the zoo's models get right, with the models' own preprocessing.

python benchmarks/accuracy.py                       # foolbox's 20 ImageNet photos
python benchmarks/accuracy.py --photos DIR          # a folder of CLASS_name.JPEG
python benchmarks/accuracy.py --model squeezenet1_0 --weights FILE
"""

import argparse
from pathlib import Path

import jax
import photos

import jaxplain as jx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="default: the three EfficientNet-Lites")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--photos", type=Path)
    options = parser.parse_args()
    paths = photos.folder(options.photos) if options.photos else photos.foolbox()
    for name in options.model or [f"efficientnet-lite{number}" for number in range(3)]:
        model = jx.zoo.load(name, weights=options.weights)
        predict = jax.jit(jx.top_class)
        images = ((photos.label(path), model.preprocess(jx.load_image(path))) for path in paths)
        right = sum(int(predict(model, image)) == label for label, image in images)
        print(f"{name}: {right} of {len(paths)} right")


if __name__ == "__main__":
    main()
