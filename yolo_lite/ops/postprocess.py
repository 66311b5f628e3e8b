"""From the head's raw maps to boxes and scores, and from those to detections.

Notation: B images, A anchors over all levels, C classes, R bins, D detections of one image.
Boxes are xyxy in input pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from yolo_lite.ops.anchors import ltrb_to_xyxy, make_anchors
from yolo_lite.ops.boxes import clip_boxes
from yolo_lite.ops.dfl import expected_distance

# Evaluation keeps nearly everything, since mAP integrates over all thresholds; prediction shows what is likely true.
EVAL_SCORE = 0.001
EVAL_IOU = 0.7
PREDICT_SCORE = 0.25
PREDICT_IOU = 0.7
MAX_DETECTIONS = 300
# Candidates that enter NMS, best scores first: a fixed number, so that results never depend on the machine's speed.
MAX_CANDIDATES = 30_000
# So many of them are looked at first; more only if too few survive.
FIRST_CANDIDATES = 1024
LOGIT_MARGIN = 1e-3


@dataclass
class Decoded:
    """What the raw maps say, level by level laid out as one list of anchors. All in float32.

    Attributes:
        log_probability: (B, 4, R, A) of the box sides' distributions.
        logits: (B, C, A) of the classes.
        boxes_xyxy: (B, A, 4) in input pixels.
        centers_xy: (A, 2) in grid units.
        stride: (A, 1) input pixels per grid unit.
    """

    log_probability: Tensor
    logits: Tensor
    boxes_xyxy: Tensor
    centers_xy: Tensor
    stride: Tensor


def decode_maps(maps: Sequence[Tensor], strides: Sequence[int], reg_max: int) -> Decoded:
    """Raw head maps, per level (B, 4R + C, H_l, W_l), to boxes and logits, in float32 whatever the precision."""
    with torch.autocast(maps[0].device.type, enabled=False):  # it would take the expectation over the bins in bf16
        flat = torch.cat([x.flatten(2) for x in maps], dim=2).float()  # (B, 4R + C, A)
        box_logits, logits = flat.split([4 * reg_max, flat.shape[1] - 4 * reg_max], dim=1)
        log_probability = box_logits.unflatten(1, (4, reg_max)).log_softmax(dim=2)
        centers_xy, stride = make_anchors(maps, strides)
        boxes_xyxy = ltrb_to_xyxy(expected_distance(log_probability), centers_xy) * stride
    return Decoded(log_probability, logits, boxes_xyxy, centers_xy, stride)


@dataclass
class Detections:
    """Detections of one image, best first.

    Attributes:
        boxes_xyxy: (D, 4) in the pixels of the image that they were found on.
        scores: (D,) in 0..1.
        labels: (D,) class indices from 0.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)


def select_detections(
    boxes_xyxy: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int = MAX_DETECTIONS,
    multi_label: bool = True,
) -> Detections:
    """Threshold and class-aware non-maximum suppression for one image.

    Args:
        boxes_xyxy: (A, 4).
        scores: (A, C) in 0..1.
        score_threshold: keep what scores higher.
        iou_threshold: of two boxes of one class that overlap more, the better stays.
        max_detections: keep at most so many.
        multi_label: a box may stay once for each class above the threshold; otherwise only for its best class.
    """
    if multi_label:
        anchor, label = (scores > score_threshold).nonzero(as_tuple=True)
        score = scores[anchor, label]
    else:
        score, label = scores.max(dim=1)
        anchor = (score > score_threshold).nonzero().squeeze(1)
        score, label = score[anchor], label[anchor]
    score, best = score.sort(descending=True, stable=True)
    score, best = score[:MAX_CANDIDATES], best[:MAX_CANDIDATES]
    label, boxes = label[best], boxes_xyxy[anchor[best]]
    keep = best_survivors(boxes, score, label, iou_threshold, max_detections)
    return Detections(boxes[keep], score[keep], label[keep])


def best_survivors(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, count: int) -> Tensor:
    """Class-aware non-maximum suppression of N boxes, best first: indices of the first `count` that survive.

    Whether a box survives depends on better ones alone, so the search stops as soon as the best boxes have yielded
    `count`: an untrained detector has thousands of candidates, and the work grows with their square.
    """
    if not len(boxes_xyxy):
        return torch.zeros(0, dtype=torch.long, device=boxes_xyxy.device)
    # batched_nms tells classes apart by moving each beyond the largest coordinate; that needs coordinates from 0 up.
    moved = boxes_xyxy - boxes_xyxy.min()
    window = FIRST_CANDIDATES
    while True:
        keep = batched_nms(moved[:window], scores[:window], labels[:window], iou_threshold)
        if len(keep) >= count or window >= len(moved):
            return keep[:count]
        window *= 4


@dataclass
class Candidates:
    """Anchors of one image that may be detections, level by level, row by row.

    Attributes:
        boxes_xyxy: (K, 4) in input pixels.
        scores: (K, C) in 0..1.
    """

    boxes_xyxy: Tensor
    scores: Tensor


def find_candidates(
    maps: Sequence[Tensor], strides: Sequence[int], reg_max: int, score_threshold: float
) -> list[Candidates]:
    """The anchors of each image that reach a score, from raw head maps, decoded in float32.

    Only these are decoded: the expectation over the bins of all anchors takes ten times as long as everything else that
    happens after the network.
    """
    found = [level_candidates(x, stride, reg_max, score_threshold) for x, stride in zip(maps, strides, strict=True)]
    per_level = [
        (boxes.split(counts), logits.split(counts))
        for boxes, logits, counts in ((boxes, logits, counts.tolist()) for boxes, logits, counts in found)
    ]
    return [
        Candidates(
            torch.cat([boxes[i] for boxes, _ in per_level]), torch.cat([logits[i] for _, logits in per_level]).sigmoid()
        )
        for i in range(len(maps[0]))
    ]


def level_candidates(x: Tensor, stride: int, reg_max: int, score_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (K, 4), logits (K, C) and how many each image has (B,), of one level (B, 4R + C, H, W)."""
    with torch.autocast(x.device.type, enabled=False):
        best = x[:, 4 * reg_max :].amax(dim=1).float()  # (B, H, W)
        # A little lower than the threshold, which `select_detections` applies to the scores themselves.
        image, row, column = (best > logit(score_threshold) - LOGIT_MARGIN).nonzero(as_tuple=True)
        values = x[image, :, row, column].float()  # (K, 4R + C)
        box_logits, logits = values.split([4 * reg_max, values.shape[1] - 4 * reg_max], dim=1)
        log_probability = box_logits.unflatten(1, (4, reg_max)).log_softmax(dim=2).permute(1, 2, 0)  # (4, R, K)
        centers_xy = torch.stack([column, row], dim=1) + 0.5
        boxes = ltrb_to_xyxy(expected_distance(log_probability[None])[0], centers_xy) * stride
    return boxes, logits, image.bincount(minlength=len(x))


def logit(probability: float) -> float:
    """Where the sigmoid has this value."""
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))


def detect(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    reg_max: int,
    score_threshold: float = PREDICT_SCORE,
    iou_threshold: float = PREDICT_IOU,
    max_detections: int = MAX_DETECTIONS,
    multi_label: bool = True,
) -> list[Detections]:
    """Raw head maps of a batch to detections per image, in input pixels. Arguments as in `select_detections`."""
    return [
        select_detections(
            candidates.boxes_xyxy, candidates.scores, score_threshold, iou_threshold, max_detections, multi_label
        )
        for candidates in find_candidates(maps, strides, reg_max, score_threshold)
    ]


def to_original(detections: Detections, letterbox: Tensor, original_size: list[int]) -> Detections:
    """From input pixels to pixels of the original image, clipped to it."""
    scale_x, scale_y, pad_x, pad_y = letterbox.tolist()
    offset = detections.boxes_xyxy.new_tensor([pad_x, pad_y, pad_x, pad_y])
    scale = detections.boxes_xyxy.new_tensor([scale_x, scale_y, scale_x, scale_y])
    boxes = clip_boxes((detections.boxes_xyxy - offset) / scale, *original_size)
    return Detections(boxes, detections.scores, detections.labels)
