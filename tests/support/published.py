"""The published programs' own preparation of a photo, so that their numbers can be met to the last digit."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image


def foolbox_photos() -> list[Path]:
    """The 20 ImageNet photos of the PyPI package foolbox: imagenet_NN_LABEL.jpg."""
    folder = Path(find_spec("foolbox").submodule_search_locations[0], "data")
    return sorted(folder.glob("imagenet_*.jpg"))


def squeezed(path: Path, side: int = 224) -> np.ndarray:
    """A photo resized bilinearly to a square: uint8 [side, side, 3]."""
    return np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def eight_bit_blur(rgb: np.ndarray, taps: int = 51, sigma: float = 50.0) -> np.ndarray:
    """Gaussian blur of uint8 [H, W, 3] in 8.8 fixed point, as OpenCV does it, which the programs call."""
    kernel, radius = _fixed_point_kernel(taps, sigma), taps // 2
    padded = np.pad(rgb.astype(np.int64), ((0, 0), (radius, radius), (0, 0)), mode="reflect")
    rows = sum(weight * padded[:, at : at + rgb.shape[1]] for at, weight in enumerate(kernel))
    padded = np.pad(rows, ((radius, radius), (0, 0), (0, 0)), mode="reflect")
    total = sum(weight * padded[at : at + rgb.shape[0]] for at, weight in enumerate(kernel))
    return ((total + (1 << 15)) >> 16).astype(np.uint8)


def _fixed_point_kernel(taps: int, sigma: float) -> np.ndarray:
    """Weights as whole 256ths that sum to 256: each rounding error is handed to the next weight."""
    exact = np.exp(-((np.arange(taps) - (taps - 1) / 2) ** 2) / (2 * sigma**2))
    exact *= 256 / exact.sum()
    kernel, error = np.zeros(taps, np.int64), 0.0
    for at in range(taps // 2):
        kernel[at] = kernel[-1 - at] = np.rint(exact[at] + error)
        error += exact[at] - kernel[at]
    kernel[taps // 2] = 256 - kernel.sum()
    return kernel
