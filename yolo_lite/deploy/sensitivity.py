"""How much each convolution suffers from int8: one at a time is rounded as a quantiser would, the others stay in float.

Notation: N images, A anchors, C classes. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import YOLO
from yolo_lite.ops.boxes import complete_iou
from yolo_lite.ops.postprocess import decode_maps
from yolo_lite.utils.progress import LongJob

# That outputs are compared on: enough to rank layers, few enough for a model of 200 of them.
COMPARED_IMAGES = 8
LEVELS = 256


@dataclass(frozen=True)
class Damage:
    """What int8 does to one convolution.

    Attributes:
        layer: its name in the detector.
        amount: how far boxes and scores move when it alone is rounded; 0 is not at all, 1 is beyond recognition.
        weights: how many it has.
    """

    layer: str
    amount: float
    weights: int


@dataclass
class Extent:
    """Smallest and largest value seen; 0 is always among them, as int8 must be able to say it."""

    low: float = 0.0
    high: float = 0.0

    def add(self, values: Tensor) -> None:
        """Look at more."""
        low, high = values.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def round(self, values: Tensor) -> Tensor:
        """The values as 8 bits over the extent say them."""
        step = (self.high - self.low) / (LEVELS - 1)
        if step == 0:
            return values
        zero = round(-self.low / step)
        return torch.fake_quantize_per_tensor_affine(values, step, zero, 0, LEVELS - 1)


def convolutions(model: YOLO) -> dict[str, nn.Conv2d]:
    """By name, as they are in the exported graph, where BatchNorm is folded and `model` is `detector`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def last_layers(model: YOLO) -> list[str]:
    """The convolutions that give the raw maps: what is behind them is decoding."""
    last = {id(branch[-1]) for branches in (model.head.box, model.head.classes) for branch in branches}  # type: ignore[index]
    return [name for name, module in convolutions(model).items() if id(module) in last]


@torch.inference_mode()
def measure_damage(model: YOLO, images: Tensor, weight_bits: int) -> list[Damage]:
    """Rank the convolutions of a detector.

    Args:
        model: with trained weights.
        images: (N, 3, H, W) uint8; all of them say how large inputs and outputs of a layer get, a few are compared.
        weight_bits: that a weight may take.

    Returns:
        One entry for each convolution, the worst first.
    """
    fused = fuse_model(model).cpu()
    layers = convolutions(fused)
    extents = find_extents(fused, layers, images)
    shown = images[:: max(1, len(images) // COMPARED_IMAGES)][:COMPARED_IMAGES].float() / 255
    expected = boxes_and_scores(fused, shown)
    damages = []
    with LongJob("measuring layers", len(layers)) as job:
        for number, (name, layer) in enumerate(layers.items(), start=1):
            with rounded(layer, *extents[name], weight_bits):
                amount = distance(expected, boxes_and_scores(fused, shown))
            damages.append(Damage(name, amount, layer.weight.numel()))
            job.update(number)
    return sorted(damages, key=lambda damage: damage.amount, reverse=True)


def find_extents(model: YOLO, layers: dict[str, nn.Conv2d], images: Tensor) -> dict[str, tuple[Extent, Extent]]:
    """Of the inputs and the outputs of each layer, over all images."""
    extents = {name: (Extent(), Extent()) for name in layers}

    def watch(name: str) -> Any:
        def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            extents[name][0].add(inputs[0])
            extents[name][1].add(output)

        return look

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        with LongJob("calibrating", len(images)) as job:
            for number, image in enumerate(images.split(1), start=1):
                model(image.float() / 255)
                job.update(number)
    finally:
        for handle in handles:
            handle.remove()
    return extents


@contextmanager
def rounded(layer: nn.Conv2d, inputs: Extent, outputs: Extent, weight_bits: int) -> Iterator[None]:
    """The layer in int8 while the block lasts: weights with a scale for each output channel, inputs and outputs with
    one for all."""
    original = layer.weight.data
    layer.weight.data = round_weights(original, weight_bits)
    handles = [
        layer.register_forward_pre_hook(lambda _, values: (inputs.round(values[0]),)),
        layer.register_forward_hook(lambda _, __, output: outputs.round(output)),
    ]
    try:
        yield
    finally:
        layer.weight.data = original
        for handle in handles:
            handle.remove()


def round_weights(weight: Tensor, bits: int) -> Tensor:
    """(O, I, h, w) as so many bits say it, symmetric about 0, with a scale for each of the O."""
    most = 2 ** (bits - 1) - 1
    steps = weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / most
    return torch.fake_quantize_per_channel_affine(
        weight, steps, torch.zeros_like(steps, dtype=torch.int32), 0, -most, most
    )


def boxes_and_scores(model: YOLO, images: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, A, 4) and scores (N, A, C)."""
    decoded = decode_maps(model(images), model.strides, model.spec.reg_max)
    return decoded.boxes_xyxy, decoded.logits.sigmoid().transpose(1, 2)


def distance(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> float:
    """How far boxes and scores are from what they were: 1 - CIoU and the largest change of a score, anchors weighted by
    the best score that either has there, since background is compared by nobody."""
    (boxes, scores), (other_boxes, other_scores) = expected, found
    weight = torch.maximum(scores.amax(dim=2), other_scores.amax(dim=2))  # (N, A)
    moved = 1 - complete_iou(boxes, other_boxes)
    changed = (scores - other_scores).abs().amax(dim=2)
    return float((weight * (moved + changed)).sum() / weight.sum())
