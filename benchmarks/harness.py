"""Shared by the benchmarks: photos, timing, memory, command-line arguments, results as JSON."""

import argparse
import json
import re
import time
from collections.abc import Callable, Hashable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxplain as jx
from jaxplain.images import resize

SIX = ("01", "04", "05", "08", "13", "15")  # numbers of six foolbox photos that several benchmarks use

# ---------------------------------------------------------------------------------------------------------
# Photos


def foolbox(numbers: tuple[str, ...] = ()) -> list[Path]:
    """Return the paths of foolbox's ImageNet photos, imagenet_NN_LABEL.jpg; default: all 20."""
    photos = sorted(_data_of("foolbox").glob("imagenet_*.jpg"))
    return [photo for photo in photos if not numbers or photo.name.split("_")[1] in numbers]


def cat() -> Path:
    """Return the path of scikit-image's photo of a cat (CC0)."""
    return _data_of("skimage") / "chelsea.png"


def _data_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise FileNotFoundError(f'{package} is not installed, which has photos: pip install -e ".[bench]"')
    return Path(spec.submodule_search_locations[0], "data")


def folder(path: Path) -> list[Path]:
    """Return the paths of the photos CLASS_name.JPEG in a folder, in alphabetical order."""
    return sorted(photo for photo in Path(path).iterdir() if re.match(r"\d+_", photo.name))


def label(photo: Path) -> int:
    """Return the class index that the file name contains."""
    foolbox_name = re.match(r"imagenet_\d+_(\d+)", photo.name)
    return int(foolbox_name[1] if foolbox_name else photo.name.split("_")[0])


def squeezed(photo: Path, model: jx.zoo.ZooClassifier) -> jax.Array:
    """Return the whole photo in model space, resized bilinearly without keeping its aspect ratio."""
    return model.normalize(resize(jx.load_image(photo), model.spec.size))


def cropped(photo: Path, model: jx.zoo.ZooClassifier) -> jax.Array:
    """Return the photo with the model's own preprocessing."""
    return model.preprocess(jx.load_image(photo))


def correctly_classified(paths: list[Path], model: jx.zoo.ZooClassifier) -> list[Path]:
    """Return the photos whose top prediction is the class in their file name."""
    predict = jax.jit(jx.top_class)
    return [path for path in paths if int(predict(model, cropped(path, model))) == label(path)]


# ---------------------------------------------------------------------------------------------------------
# Timing and memory


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a call and the seconds until all of its arrays are computed."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return result, time.perf_counter() - start


def least_seconds(run: Callable[[], Any], calls: int) -> float:
    """Return the shortest of several calls, after one that is not counted."""
    run()
    return min(timed(run)[1] for _ in range(calls))


def in_turns(
    runs: Mapping[Hashable, Callable[[], Any]], rounds: int, calls: int = 1
) -> dict[Hashable, float]:
    """Return the shortest time of each run, in seconds. Runs alternate, so that a busy machine slows all.

    The first call of each turn is not counted, because another library's threads keep spinning for a while.
    """
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], least_seconds(run, calls))
    return best


def compile_cpu_seconds(lowered: Any) -> tuple[Any, float]:
    """Return the compiled program and the CPU seconds, summed over threads, that XLA needed."""
    start = time.process_time()
    compiled = lowered.compile()
    return compiled, time.process_time() - start


def resident_mib() -> float:
    """Return the resident memory of this process in MiB (Linux only)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


# ---------------------------------------------------------------------------------------------------------
# Arguments and results


def arguments(doc: str, *, photos: bool = True) -> argparse.ArgumentParser:
    """Return a parser described by the benchmark's docstring, with --json and options to choose photos."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=_Formatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    if photos:
        parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of photos CLASS_name.JPEG")
        parser.add_argument("--skip", type=int, default=0, metavar="N", help="skip the first N photos")
        parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th photo")
        parser.add_argument("--limit", type=int, metavar="N", help="use at most N photos")
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the docstring, and shows defaults other than None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def comma_separated(kind: Callable[[str], Any]) -> Callable[[str], tuple]:
    """Return a parser of arguments such as 2,3,4."""
    return lambda text: tuple(map(kind, text.split(",")))


def chosen_photos(options: argparse.Namespace, default: list[Path] | None = None) -> list[Path]:
    """Return the photos that the command line selects, from --photos or else `default` (None: foolbox's)."""
    paths = folder(options.photos) if options.photos else foolbox() if default is None else default
    return paths[options.skip :: options.every][: options.limit]


def save(options: argparse.Namespace, results: Any) -> None:
    """Write the results as JSON if --json was given."""
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else np.asarray(value).tolist()
