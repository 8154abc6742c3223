"""The photos that benchmarks run on: foolbox's 20, or a folder of CLASS_name.JPEG."""

import re
from importlib.util import find_spec
from pathlib import Path

import jaxplain as jx
from jaxplain.images import resize

SIX = ("01", "04", "05", "08", "13", "15")  # of foolbox's; the design's figures are means over these


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


def squeezed(photo: Path, model: jx.zoo.Classifier):
    """The whole photo squeezed to the model's input, bilinearly, in model space."""
    return model.normalize(resize(jx.load_image(photo), model.spec.size))
