"""The detection loss: CIoU on boxes, BCE on classes, DFL on side distributions, over task-aligned targets.

Notation: B images, A anchors over all levels, G padded ground truths, C classes, R bins.
Everything runs in float32, whatever the precision of the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_lite.data.types import Targets
from yolo_lite.losses.assigner import TaskAlignedAssigner
from yolo_lite.ops.anchors import xyxy_to_ltrb
from yolo_lite.ops.boxes import complete_iou
from yolo_lite.ops.dfl import distribution_focal_loss
from yolo_lite.ops.postprocess import decode_maps

BatchSum = Callable[[Tensor], Tensor]
TERMS = ("box", "class", "dfl", "distill")


def whole(values: Tensor) -> Tensor:
    """The sum over a batch that one process has to itself."""
    return values


@dataclass
class LossItems:
    """Scalars (tensors, nothing synchronised with the host), averaged over the batch and weighted by the gains.

    Where a batch is spread over processes, each has its share: the sum over the processes is the batch's loss.

    Attributes:
        box: CIoU loss.
        classes: binary cross-entropy.
        dfl: distribution focal loss.
        positives: anchors with an object, per image of the batch (not a loss).
        images: images of the batch, those of the other processes included.
        distill: what a teacher adds; None: there is none.
    """

    box: Tensor
    classes: Tensor
    dfl: Tensor
    positives: Tensor
    images: Tensor
    distill: Tensor | None = None

    @property
    def terms(self) -> dict[str, Tensor]:
        """What is added up, by the names of the logs: those of `TERMS` that there are."""
        values = (self.box, self.classes, self.dfl, self.distill)
        return {name: value for name, value in zip(TERMS, values, strict=True) if value is not None}

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


class DetectionLoss:
    """Loss of raw head maps against padded targets.

    Args:
        strides: input pixels per cell of each level.
        reg_max: R.
        box_gain, class_gain, dfl_gain: weights of the three terms.
        top_k: candidates per ground truth in the assignment.
    """

    def __init__(
        self,
        strides: Sequence[int],
        reg_max: int = 16,
        box_gain: float = 7.5,
        class_gain: float = 0.5,
        dfl_gain: float = 1.5,
        top_k: int = 10,
    ) -> None:
        self.strides = tuple(strides)
        self.reg_max = reg_max
        self.box_gain = box_gain
        self.class_gain = class_gain
        self.dfl_gain = dfl_gain
        self.assigner = TaskAlignedAssigner(top_k=top_k)

    def __call__(self, maps: Sequence[Tensor], targets: Targets, batch_sum: BatchSum | None = None) -> LossItems:
        """Per level (B, 4R + C, H_l, W_l), targets of the same B images -> the three terms.

        Args:
            maps: raw maps.
            targets: ground truth.
            batch_sum: adds a tensor up over the processes that share the batch; None: it is whole here.
        """
        with torch.autocast(maps[0].device.type, enabled=False):
            return self._loss(maps, targets, batch_sum or whole)

    def _loss(self, maps: Sequence[Tensor], targets: Targets, batch_sum: BatchSum) -> LossItems:
        decoded = decode_maps(maps, self.strides, self.reg_max)
        centers, stride = decoded.centers_xy, decoded.stride
        assigned = self.assigner(
            decoded.logits.detach().transpose(1, 2).sigmoid(),
            decoded.boxes_xyxy.detach(),
            centers * stride,
            targets.labels,
            targets.boxes_xyxy,
            targets.mask,
        )
        # One normaliser for all three terms: the sum of the target scores, over the whole batch wherever it lies, so
        # that the gradient does not depend on how many processes share it.
        target_sum = assigned.scores.sum()
        target_sum, images = batch_sum(
            torch.stack([target_sum, target_sum.new_full((), len(assigned.scores))])
        ).unbind()
        normaliser = target_sum.clamp(min=1.0)
        weight = assigned.scores.sum(dim=2) / normaliser  # (B, A), zero where background

        bce = F.binary_cross_entropy_with_logits(decoded.logits, assigned.scores.transpose(1, 2), reduction="sum")
        # Both box terms are taken on every anchor and weighted by zero on the background: selecting the foreground
        # would have to wait for its size. In grid units; background targets become the prediction itself, so that
        # 0 x anything stays 0.
        pred_grid = decoded.boxes_xyxy / stride
        foreground = assigned.foreground.unsqueeze(2)
        target_grid = torch.where(foreground, assigned.boxes_xyxy / stride, pred_grid.detach())
        box = ((1.0 - complete_iou(pred_grid, target_grid)) * weight).sum()
        target_ltrb = xyxy_to_ltrb(target_grid, centers)
        dfl = (distribution_focal_loss(decoded.log_probability, target_ltrb) * weight).sum()
        return LossItems(
            box=self.box_gain * box,
            classes=self.class_gain * bce / normaliser,
            dfl=self.dfl_gain * dfl,
            positives=assigned.foreground.sum() / images,
            images=images,
        )
