"""What the benchmarks share: photos, timing, arguments, results as JSON."""

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxplain as jx
from jaxplain.images import resize

SIX = ("01", "04", "05", "08", "13", "15")  # of foolbox's; the design's figures are means over these

# ---------------------------------------------------------------------------------------------------------
# Photos


def foolbox(numbers: tuple[str, ...] = ()) -> list[Path]:
    """Paths of foolbox's ImageNet photos, imagenet_NN_LABEL.jpg."""
    folder = Path(find_spec("foolbox").submodule_search_locations[0], "data")
    photos = sorted(folder.glob("imagenet_*.jpg"))
    return [photo for photo in photos if not numbers or photo.name.split("_")[1] in numbers]


def cat() -> Path:
    """Path of scikit-image's cat (CC0)."""
    return Path(find_spec("skimage").submodule_search_locations[0], "data", "chelsea.png")


def folder(path: Path) -> list[Path]:
    """Paths of a folder's photos, CLASS_name.JPEG, in order."""
    return sorted(photo for photo in Path(path).iterdir() if re.match(r"\d+_", photo.name))


def label(photo: Path) -> int:
    """The class that the file name gives."""
    foolbox_name = re.match(r"imagenet_\d+_(\d+)", photo.name)
    return int(foolbox_name[1] if foolbox_name else photo.name.split("_")[0])


def squeezed(photo: Path, model: jx.zoo.ZooClassifier):
    """The whole photo squeezed to the model's input, bilinearly, in model space."""
    return model.normalize(resize(jx.load_image(photo), model.spec.size))


def named_right(paths: list[Path], model: jx.zoo.ZooClassifier) -> list[Path]:
    """The photos whose top prediction is the class that the file name gives."""
    predict = jax.jit(jx.top_class)
    return [
        path for path in paths if int(predict(model, model.preprocess(jx.load_image(path)))) == label(path)
    ]


# ---------------------------------------------------------------------------------------------------------
# Timing


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds until its arrays are there."""
    start = time.perf_counter()
    found = jax.block_until_ready(run())
    return found, time.perf_counter() - start


def in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 1) -> dict[str, float]:
    """Least seconds of each run. They take turns, so that a busy machine slows all of them.

    The first call of a turn is not counted: another library's threads go on spinning for a while.
    """
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            best[name] = min([best[name], *(timed(run)[1] for _ in range(calls))])
    return best


def compile_cpu_seconds(lowered: Any) -> tuple[Any, float]:
    """The compiled program and the CPU seconds (of all threads) that XLA took."""
    start = time.process_time()
    compiled = lowered.compile()
    return compiled, time.process_time() - start


# ---------------------------------------------------------------------------------------------------------
# Arguments and results


def arguments(doc: str, *, photos: bool = True) -> argparse.ArgumentParser:
    """A parser with the benchmark's first line, --json, and the choice of photos."""
    parser = argparse.ArgumentParser(
        description=doc.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    if photos:
        parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of CLASS_name.JPEG")
        parser.add_argument("--skip", type=int, default=0, help="leave out the first photos of the folder")
        parser.add_argument("--every", type=int, default=1, help="take every n-th photo")
        parser.add_argument("--limit", type=int, help="take at most this many photos")
    return parser


def chosen_photos(options: argparse.Namespace, otherwise: list[Path] | None = None) -> list[Path]:
    """The photos of the command line; foolbox's, or `otherwise`, where no folder is given."""
    paths = folder(options.photos) if options.photos else foolbox() if otherwise is None else otherwise
    return paths[options.skip :: options.every][: options.limit]


def save(options: argparse.Namespace, results: Any) -> None:
    """Write the results as JSON where --json asks for it."""
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()
