"""Is a written model the model that was trained? Both look at the same images.

Notation: B images, A anchors, C classes. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_lite.deploy.model_info import Precision
from yolo_lite.deploy.runtimes import Runtime, TorchRuntime
from yolo_lite.ops.postprocess import Detections, decode_maps

# What may differ, boxes as a share of the input's longer side. In float32 only the order of sums does. Half as many
# digits are a thousandth of each value, which grows on the way through the network, less in one that was trained well;
# the expectation over the bins can tip where a box has two good sides.
TOLERANCES: dict[str, tuple[float, float]] = {"fp32": (1e-4, 1e-4), "fp16": (1e-2, 2e-2)}
# Detections further apart are two.
SAME_PLACE = 0.05
# Of an input of any size or number.
SIZES = ((320, 320), (256, 384))
BATCHES = (1, 3)
SCORE, IOU, MAX_DETECTIONS = 0.25, 0.7, 300
# Share of detections: two that are equally good, or just as good as a threshold, may change places.
MOST_UNMATCHED = 0.1


@dataclass(frozen=True)
class Difference:
    """How far a model's outputs are from PyTorch's.

    Attributes:
        shape: of the input, (B, 3, H, W).
        boxes: largest difference of a coordinate, as a share of the input's longer side.
        scores: largest difference of a score.
        unmatched: detections that only one of the two found, of all.
        detections: that PyTorch found.
    """

    shape: tuple[int, ...]
    boxes: float
    scores: float
    unmatched: int
    detections: int

    def is_within(self, precision: Precision) -> bool:
        """Small enough to be the same model."""
        boxes, scores = TOLERANCES[precision]
        is_same_set = self.unmatched <= MOST_UNMATCHED * self.detections
        return self.boxes <= boxes and self.scores <= scores and is_same_set


def probe_shapes(runtime: Runtime) -> list[tuple[int, int, int, int]]:
    """Shapes of inputs that a model is looked at with: two sizes and two numbers of images, if it takes any."""
    info = runtime.info
    sizes = SIZES if info.input_size is None else (info.input_size,)
    batches = BATCHES if info.batch is None else (info.batch,)
    return [(batch, 3, *size) for size in sizes for batch in batches]


def probe_images(shape: tuple[int, int, int, int], seed: int = 0) -> Tensor:
    """(B, 3, H, W) uint8: spots of all sizes on noise, so that there is something to see."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    images = torch.rand(shape, generator=generator) * 40
    for cells in (4, 9, 20):
        spots = torch.rand(batch, channels, cells, cells, generator=generator)
        images += 70 * torch.nn.functional.interpolate(spots, (height, width), mode="bilinear", align_corners=False)
    return images.clamp(0, 255).to(torch.uint8)


def compare(reference: TorchRuntime, runtime: Runtime, images: Tensor) -> Difference:
    """What two runtimes of one model make of the same images."""
    if runtime.info.output == "nms":
        return compare_detections(reference, runtime, images)
    longer = max(images.shape[2:])
    expected, found = reference(images), runtime(images)
    (expected_boxes, expected_scores), (boxes, scores) = decoded(reference, expected), decoded(runtime, found)
    limits = (SCORE, IOU, MAX_DETECTIONS)
    pairs = list(zip(reference.select(expected, *limits), runtime.select(found, *limits), strict=True))
    return Difference(
        shape=tuple(images.shape),
        boxes=float((boxes - expected_boxes).abs().max()) / longer,
        scores=float((scores - expected_scores).abs().max()),
        unmatched=sum(count_unmatched(one, other, longer, runtime.info.precision) for one, other in pairs),
        detections=sum(len(one) for one, _ in pairs),
    )


def decoded(runtime: Runtime, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (B, A, 4) and scores (B, A, C) of all anchors, from raw or decoded outputs."""
    if runtime.info.output == "decoded":
        return outputs[0].cpu(), outputs[1].cpu()
    values = decode_maps([x.cpu() for x in outputs], runtime.info.strides, runtime.info.reg_max)
    return values.boxes_xyxy, values.logits.sigmoid().transpose(1, 2)


def compare_detections(reference: TorchRuntime, runtime: Runtime, images: Tensor) -> Difference:
    """As `compare`, for a graph that ends with suppression: of the detections that both found."""
    limits = runtime.info.suppression
    assert limits is not None
    longer = max(images.shape[2:])
    boxes, scores, unmatched, detections = 0.0, 0.0, 0, 0
    arguments = (limits.score, limits.iou, limits.max_detections)
    for one, other in zip(reference.detect(images, *arguments), runtime.detect(images, *arguments), strict=True):
        unmatched += count_unmatched(one, other, longer, runtime.info.precision)
        detections += len(one)
        for i, j in matches(one, other, longer):
            boxes = max(boxes, float((one.boxes_xyxy[i] - other.boxes_xyxy[j]).abs().max()) / longer)
            scores = max(scores, abs(float(one.scores[i] - other.scores[j])))
    return Difference(tuple(images.shape), boxes, scores, unmatched, detections)


def matches(one: Detections, other: Detections, longer: int) -> list[tuple[int, int]]:
    """Pairs of detections of one class at one place, each the nearest of the other that is left, best scores first."""
    pairs, taken = [], torch.zeros(len(other), dtype=torch.bool)
    for i in range(len(one)):
        distance = (other.boxes_xyxy - one.boxes_xyxy[i]).abs().amax(dim=1)
        distance[taken | (other.labels != one.labels[i])] = torch.inf
        if len(distance) and distance.min() <= SAME_PLACE * longer:
            j = int(distance.argmin())
            taken[j] = True
            pairs.append((i, j))
    return pairs


def count_unmatched(one: Detections, other: Detections, longer: int, precision: Precision) -> int:
    """Detections of either that the other does not have, within the tolerances."""
    boxes, scores = TOLERANCES.get(precision, TOLERANCES["fp16"])
    same = sum(
        float((one.boxes_xyxy[i] - other.boxes_xyxy[j]).abs().max()) <= boxes * longer
        and abs(float(one.scores[i] - other.scores[j])) <= scores
        for i, j in matches(one, other, longer)
    )
    return len(one) + len(other) - 2 * same
