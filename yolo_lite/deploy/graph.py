"""The detector as one graph: network, decoding and suppression, whatever of them a file is to hold.

Notation: B images, A anchors, C classes, D detections at most. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from yolo_lite.deploy.model_info import Output, Suppression
from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import YOLO
from yolo_lite.ops.postprocess import decode_maps

OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    "decoded": ("boxes_xyxy", "scores"),
    "nms": ("boxes_xyxy", "scores", "labels"),
}


def output_names(output: Output, strides: tuple[int, ...]) -> tuple[str, ...]:
    """What a graph's outputs are called; maps after their level, P3 for stride 8."""
    return OUTPUT_NAMES.get(output) or tuple(f"p{stride.bit_length() - 1}" for stride in strides)


class DetectorGraph(nn.Module):
    """(B, 3, H, W) float32 images in 0..1 -> the outputs of a `ModelInfo`.

    Args:
        model: with trained weights; BatchNorm is folded in a copy.
        output: raw, decoded or nms.
        suppression: for nms.
        is_half: weights and network in float16; input, decoding and outputs stay in float32.
        suppress: of `nms`: `suppress_scores`, or a form of it that an exporter understands.
    """

    def __init__(
        self,
        model: YOLO,
        output: Output,
        suppression: Suppression | None = None,
        is_half: bool = False,
        suppress: Callable[[Tensor, Tensor, float, float, int], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.detector = fuse_model(model).cpu()
        self.strides, self.reg_max = model.strides, model.spec.reg_max
        self.output = output
        self.suppression = suppression
        self.suppress = suppress or suppress_operation
        self.is_half = is_half
        if is_half:
            self.detector.half()
        # Suppression reads neither trained weights nor gradients; what is exported is for inference alone.
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.detector(images.half() if self.is_half else images)
        if self.output == "raw":
            return [x.float() for x in maps] if self.is_half else maps
        decoded = decode_maps(maps, self.strides, self.reg_max)
        boxes, scores = decoded.boxes_xyxy, decoded.logits.sigmoid()  # (B, A, 4), (B, C, A)
        if self.output == "decoded":
            return [boxes, scores.transpose(1, 2)]
        assert self.suppression is not None
        limits = self.suppression
        best = scores.amax(dim=1, keepdim=True)
        scores = torch.where(scores == best, scores, 0.0)  # a box stays for its best class only
        kept = self.suppress(boxes, scores, limits.iou, limits.score, limits.max_detections)
        return best_first(boxes, kept, limits.max_detections)


def best_first(boxes_xyxy: Tensor, scores: Tensor, max_detections: int) -> list[Tensor]:
    """Boxes (B, A, 4) and scores (B, C, A), 0 where suppressed -> boxes (B, D, 4), scores (B, D), labels (B, D)."""
    num_anchors = boxes_xyxy.shape[1]
    # Of all pairs of a class and an anchor, and nothing where a small input has fewer pairs than that.
    values, place = F.pad(scores.flatten(1), (0, max_detections)).topk(max_detections, dim=1)
    labels = torch.div(place, num_anchors, rounding_mode="floor")
    anchor = place - labels * num_anchors
    boxes = boxes_xyxy.gather(1, anchor.unsqueeze(2).expand(-1, -1, 4))
    is_there = values > 0
    return [boxes * is_there.unsqueeze(2), values, labels * is_there]


def suppress_scores(
    boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_per_class: int
) -> Tensor:
    """Non-maximum suppression in each class of each image, as ONNX's NonMaxSuppression does it.

    Args:
        boxes_xyxy: (B, A, 4).
        scores: (B, C, A).
        iou_threshold: of two boxes that overlap more, the better stays.
        score_threshold: what does not score higher goes.
        max_per_class: so many stay at most in a class of an image.

    Returns:
        (B, C, A): the scores, 0 where a box goes.
    """
    kept = torch.zeros_like(scores)
    for i in range(scores.shape[0]):
        for c in range(scores.shape[1]):
            index = torch.nonzero(scores[i, c] > score_threshold).squeeze(1)
            if index.numel() > 0:
                best = index[nms(boxes_xyxy[i][index], scores[i, c][index], iou_threshold)][:max_per_class]
                kept[i, c, best] = scores[i, c, best]
    return kept


@torch.library.custom_op("yolo_lite::suppress", mutates_args=())
def suppress_operation(
    boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_per_class: int
) -> Tensor:
    """`suppress_scores` as one operation, which exporters pass through as a whole."""
    return suppress_scores(boxes_xyxy, scores, iou_threshold, score_threshold, max_per_class)


@suppress_operation.register_fake
def _(boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_per_class: int) -> Tensor:
    return torch.empty_like(scores)
