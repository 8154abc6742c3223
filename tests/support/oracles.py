"""Slow, obviously correct versions of what the package computes fast: plain loops in NumPy.

Written from the papers and docs, not from the package's code; nothing here imports it. Masks are [h, w],
images [H, W, C], all float64.
"""

from typing import NamedTuple

import jax
import numpy as np

# --- how a mask becomes an image


def neighbours(size_in, size_out):
    """For each output sample the input samples it lies between and its place between them."""
    for position in np.linspace(0, size_in - 1, size_out):
        low = int(np.floor(position))
        yield low, min(low + 1, size_in - 1), position - low


def upsample(mask, shape):
    """Bilinear interpolation; the corners of the two grids are the same points."""
    result = np.zeros(shape)
    for i, (top, bottom, down) in enumerate(neighbours(mask.shape[0], shape[0])):
        for j, (left, right, across) in enumerate(neighbours(mask.shape[1], shape[1])):
            upper = (1 - across) * mask[top, left] + across * mask[top, right]
            lower = (1 - across) * mask[bottom, left] + across * mask[bottom, right]
            result[i, j] = (1 - down) * upper + down * lower
    return result


def upsample_transposed(grads, shape):
    """Each cell's share of the gradient of every pixel it contributes to: [H, W] -> [h, w]."""
    result = np.zeros(shape)
    for i, (top, bottom, down) in enumerate(neighbours(shape[0], grads.shape[0])):
        for j, (left, right, across) in enumerate(neighbours(shape[1], grads.shape[1])):
            result[top, left] += (1 - down) * (1 - across) * grads[i, j]
            result[top, right] += (1 - down) * across * grads[i, j]
            result[bottom, left] += down * (1 - across) * grads[i, j]
            result[bottom, right] += down * across * grads[i, j]
    return result


def blend(image, baseline, mask):
    """The image where the mask is 1, the baseline where it is 0."""
    return image * mask[:, :, None] + baseline * (1 - mask[:, :, None])


def reflect_101(index, size):
    """Where an index beyond the border lands: ... 2 1 | 0 1 2 3 | 2 1 0 1 ..."""
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
        if size == 1:
            return 0
    return index


def blur(image, taps, sigma):
    """Gaussian blur, first down, then across."""
    radius = taps // 2
    kernel = np.array([np.exp(-((t - radius) ** 2) / (2 * sigma**2)) for t in range(taps)])
    kernel /= kernel.sum()
    for axis in (0, 1):
        source, size = np.moveaxis(image, axis, 0), image.shape[axis]
        rows = [
            sum(kernel[t] * source[reflect_101(i + t - radius, size)] for t in range(taps))
            for i in range(size)
        ]
        image = np.moveaxis(np.stack(rows), 0, axis)
    return image


# --- penalties


def l1(mask):
    return sum(abs(1 - value) for value in mask.flat) / mask.size


def total_variation(mask, power=2.0, weigh=lambda here, there: 1.0):
    """Mean neighbour difference to a power, down and across; `weigh` weighs a pair of places."""
    rows, cols = mask.shape
    down = [
        weigh((i, j), (i + 1, j)) * abs(mask[i + 1, j] - mask[i, j]) ** power
        for i in range(rows - 1)
        for j in range(cols)
    ]
    across = [
        weigh((i, j), (i, j + 1)) * abs(mask[i, j + 1] - mask[i, j]) ** power
        for i in range(rows)
        for j in range(cols - 1)
    ]
    return sum(sum(values) / len(values) for values in (down, across) if values)


def bilateral_total_variation(mask, image, sigma=0.01, power=2.0):
    def weigh(here, there):
        return np.exp(-np.mean((image[there] - image[here]) ** 2) / sigma)

    upsampled = upsample(mask, image.shape[:2])
    return 0.5 * (total_variation(mask, power) + total_variation(upsampled, power, weigh))


# --- objective


class Numbers(NamedTuple):
    l1: float = 0.0
    l2: float = 0.0
    sigma: float = 0.01
    score_weight: float = 1.0
    deletion: float = 1.0
    insertion: float = 1.0


class Found(NamedTuple):
    loss: float
    grads: np.ndarray  # [M, h, w]
    deletion: float  # mean path-integrated score
    insertion: float


TERMS = {  # which masks, deletion or insertion
    "igos": [("x", "deletion")],
    "igos+": [("x", "deletion"), ("x", "insertion")],
    "igos++": [("x", "deletion"), ("y", "insertion"), ("xy", "deletion"), ("xy", "insertion")],
}


@jax.jit
@jax.value_and_grad
def one(picture, score):
    """Score and gradient of one picture [H, W, C]."""
    return score(picture[None])[0]


def objective(method, score, masks, image, baselines, nodes, weights, numbers):
    """Loss and gradient at masks [M, h, w]: every term, baseline and node one after the other.

    `score` is a pytree, called with one image at a time.
    """
    shape = image.shape[:2]
    up = dict(zip("xy", (upsample(mask, shape) for mask in masks), strict=False))
    up["xy"] = up["x"] * up.get("y", 1.0)
    slope = {name: np.zeros(shape) for name in up}  # of the score terms, in the upsampled masks
    sums = {"deletion": [], "insertion": []}
    for name, kind in TERMS[method]:
        integral = 0.0
        for baseline in baselines:
            near, far = (image, baseline) if kind == "deletion" else (baseline, image)
            for node, weight in zip(nodes, weights, strict=True):
                picture = blend(near, far, node * up[name])
                value, grad = one(np.float32(picture), score)
                share = weight / len(baselines)
                integral += share * float(value)
                sign = numbers.deletion if kind == "deletion" else -numbers.insertion
                slope[name] += sign * share * node * (np.asarray(grad, np.float64) * (near - far)).sum(-1)
        sums[kind].append(integral)
    explained = masks[0] if len(masks) == 1 else masks[0] * masks[1]
    loss = numbers.deletion * sum(sums["deletion"]) - numbers.insertion * sum(sums["insertion"])
    if len(masks) == 2:
        slope["x"] += slope["xy"] * up["y"]
        slope["y"] += slope["xy"] * up["x"]
    grads = [numbers.score_weight * upsample_transposed(slope[n], masks[0].shape) for n in "xy"[: len(masks)]]
    return Found(
        loss + penalty(method, explained, image, numbers),
        np.stack(grads) + penalty_slope(method, masks, image, numbers),
        np.mean(sums["deletion"]),
        np.mean(sums["insertion"]) if sums["insertion"] else np.nan,
    )


def penalty(method, mask, image, numbers):
    rough = (
        total_variation(mask) if method == "igos" else bilateral_total_variation(mask, image, numbers.sigma)
    )
    return numbers.l1 * l1(mask) + numbers.l2 * rough


def penalty_slope(method, masks, image, numbers, step=1e-5):
    """Central differences, exact but for rounding where the penalty is quadratic."""
    grads = np.zeros_like(masks)
    for place in np.ndindex(masks.shape):
        sides = []
        for sign in (1, -1):
            moved = masks.copy()
            moved[place] += sign * step
            sides.append(penalty(method, np.prod(moved, axis=0), image, numbers))
        grads[place] = (sides[0] - sides[1]) / (2 * step)
    return grads


# --- descent


class Step(NamedTuple):
    masks: np.ndarray
    loss: float
    step: float
    trials: int


def line_search(masks, grads, loss, measure, first=1000.0, decay=0.2, beta=1e-4, smallest=1e-5):
    """Backtracking as in the authors' programs: shorten until it pays or the step is tiny."""
    step, trials = first, 0
    while True:
        moved = np.clip(masks - step * grads, 0, 1)
        found = measure(moved)
        trials += 1
        if found <= loss - beta * step * np.sum(grads**2) or step < smallest:
            return Step(moved, found, step, trials)
        step *= decay


# --- measures


class Curves(NamedTuple):
    fraction: list
    deletion: list
    insertion: list
    deletion_area: float
    insertion_area: float


def insertion_deletion(score, image, baseline, saliency, steps):
    """Replace or restore the most important cells first and watch the score."""
    values = saliency.ravel()
    order = sorted(range(values.size), key=lambda cell: (-values[cell], cell))
    counts = [*range(0, values.size, max(1, values.size // steps)), values.size]
    deletion, insertion = [], []
    for count in counts:
        chosen = np.zeros(values.size)
        for cell in order[:count]:
            chosen[cell] = 1.0
        mask = upsample(chosen.reshape(saliency.shape), image.shape[:2])
        deletion.append(float(score(np.float32(blend(baseline, image, mask))[None])[0]))
        insertion.append(float(score(np.float32(blend(image, baseline, mask))[None])[0]))
    fraction = [count / values.size for count in counts]
    return Curves(fraction, deletion, insertion, area(fraction, deletion), area(fraction, insertion))


def area(places, values):
    """Trapezoids."""
    return sum((places[i + 1] - places[i]) * (values[i + 1] + values[i]) / 2 for i in range(len(places) - 1))
