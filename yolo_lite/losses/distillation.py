"""Distillation: the detection loss once more, with a teacher's outputs in the place of the ground truth.

Class scores and box distributions of the teacher are soft targets on every anchor, weighed by how sure the teacher is
(localisation distillation, arXiv:2102.12252; binary scores as in arXiv:2308.14286); feature maps are compared by their
correlation, which takes no notice of scale (PKD, arXiv:2207.02039).

Notation: B images, A anchors over the levels that both have, C classes that both know, R bins.
Everything runs in float32, whatever the precision of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_lite.losses.detection import BatchSum
from yolo_lite.ops.boxes import complete_iou
from yolo_lite.ops.postprocess import Decoded

EPS = 1e-6


def bernoulli_divergence(logits: Tensor, target_logits: Tensor) -> Tensor:
    """KL(teacher || student) of independent class scores, elementwise: 0 where they agree."""
    target = target_logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(target_logits, target, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") - entropy


def side_divergence(log_probability: Tensor, target: Tensor) -> Tensor:
    """KL(teacher || student) of the box sides' distributions, (B, 4, R, A) log-probabilities -> (B, A), mean of the
    sides."""
    return (target.exp() * (target - log_probability)).sum(dim=2).mean(dim=1)


def correlation_distance(features: Tensor, target: Tensor) -> Tensor:
    """1 - Pearson's r of every channel over the cells of every image, (B, c, H, W) twice -> (B,), mean of the channels
    (arXiv:2207.02039, eq. 5). A channel that is the same everywhere counts 1."""
    a, b = (x.float().flatten(2) - x.float().mean(dim=(2, 3)).unsqueeze(2) for x in (features, target))
    scale = a.pow(2).sum(dim=2).clamp(min=EPS).sqrt() * b.pow(2).sum(dim=2).clamp(min=EPS).sqrt()
    return (1 - (a * b).sum(dim=2) / scale).mean(dim=1)


class DistillationLoss:
    """How far a student is from its teacher: 0 where all outputs agree.

    Args:
        box_gain, class_gain, dfl_gain: weights of the terms, those of the detection loss.
        feature_gain: weight of the feature maps.
    """

    def __init__(
        self, box_gain: float = 7.5, class_gain: float = 0.5, dfl_gain: float = 1.5, feature_gain: float = 1.0
    ) -> None:
        self.box_gain = box_gain
        self.class_gain = class_gain
        self.dfl_gain = dfl_gain
        self.feature_gain = feature_gain

    def __call__(
        self,
        student: Decoded,
        teacher: Decoded,
        features: Sequence[Tensor],
        teacher_features: Sequence[Tensor],
        batch_sum: BatchSum,
    ) -> Tensor:
        """A scalar, averaged over the batch; where processes share one, this process's share.

        Args:
            student: its outputs, of the common levels and classes.
            teacher: of the same anchors, classes in the same order; without gradient.
            features: (B, c, H, W) of the common levels, adapted to the teacher's channels.
            teacher_features: of the same shapes.
            batch_sum: adds a tensor up over the processes that share the batch.
        """
        sure = teacher.logits.amax(dim=1).sigmoid()  # (B, A)
        total, images = batch_sum(torch.stack([sure.sum(), sure.new_full((), len(sure))])).unbind()
        weight = sure / total.clamp(min=1.0)
        classes = bernoulli_divergence(student.logits, teacher.logits).sum() / total.clamp(min=1.0)
        overlap = complete_iou(student.boxes_xyxy / student.stride, teacher.boxes_xyxy / teacher.stride)
        loss = self.class_gain * classes + self.box_gain * ((1 - overlap) * weight).sum()
        if student.log_probability.shape == teacher.log_probability.shape:  # else they have other bins
            sides = side_divergence(student.log_probability, teacher.log_probability)
            loss = loss + self.dfl_gain * (sides * weight).sum()
        distances = [correlation_distance(a, b).sum() for a, b in zip(features, teacher_features, strict=True)]
        return loss + self.feature_gain * torch.stack(distances).mean() / images
