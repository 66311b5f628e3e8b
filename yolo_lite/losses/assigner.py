"""Task-aligned label assignment (TOOD, arXiv:2108.07755), batched over images.

Notation: B images, A anchors over all levels, G padded ground truths, C classes, K candidates per ground truth.
Boxes are xyxy in input pixels; anchor centres are (A, 2) in input pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_lite.ops.boxes import complete_iou

EPS = 1e-9
# Images are taken in turns when their (G, A) tables would hold more numbers than this (about 0.3 GB a table).
MAX_TABLE = 2**26


@dataclass
class Assignment:
    """The target of every anchor.

    Attributes:
        foreground: (B, A) bool, the anchor has an object.
        gt_index: (B, A) which ground truth of its image; 0 where background.
        boxes_xyxy: (B, A, 4) that ground truth's box; zeros where background.
        scores: (B, A, C) soft classification target; zeros where background.
    """

    foreground: Tensor
    gt_index: Tensor
    boxes_xyxy: Tensor
    scores: Tensor


def centers_inside(centers_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """(A, 2) centres, (B, G, 4) boxes -> (B, G, A) bool, strictly inside."""
    x, y = centers_xy.unbind(-1)
    x1, y1, x2, y2 = boxes_xyxy.unsqueeze(2).unbind(-1)  # (B, G, 1)
    inside_x = torch.minimum(x - x1, x2 - x) > EPS
    inside_y = torch.minimum(y - y1, y2 - y) > EPS
    return inside_x & inside_y


def top_candidates(metric: Tensor, count: int) -> Tensor:
    """(B, G, A) metric -> (B, G, A) bool: the `count` best anchors of each ground truth."""
    best = metric.topk(min(count, metric.shape[-1]), dim=-1).indices  # (B, G, K)
    return torch.zeros_like(metric, dtype=torch.bool).scatter_(-1, best, True)


class TaskAlignedAssigner:
    """Anchors for each ground truth, by score^alpha x CIoU^beta (TOOD eq. 1).

    Args:
        top_k: candidates per ground truth.
        alpha: exponent of the classification score.
        beta: exponent of the overlap.
    """

    def __init__(self, top_k: int = 10, alpha: float = 0.5, beta: float = 6.0) -> None:
        self.top_k = top_k
        self.alpha = alpha
        self.beta = beta

    @torch.no_grad()
    def __call__(
        self, scores: Tensor, pred_xyxy: Tensor, centers_xy: Tensor, gt_labels: Tensor, gt_xyxy: Tensor, gt_mask: Tensor
    ) -> Assignment:
        """Assign.

        Args:
            scores: (B, A, C) predicted class scores in 0..1.
            pred_xyxy: (B, A, 4) predicted boxes.
            centers_xy: (A, 2).
            gt_labels: (B, G) class indices; anything where padded.
            gt_xyxy: (B, G, 4).
            gt_mask: (B, G) bool, False where padded.
        """
        batch, anchors, classes = scores.shape
        num_gt = gt_labels.shape[1]
        if num_gt == 0:
            return Assignment(
                torch.zeros(batch, anchors, dtype=torch.bool, device=scores.device),
                torch.zeros(batch, anchors, dtype=torch.long, device=scores.device),
                torch.zeros_like(pred_xyxy),
                torch.zeros_like(scores),
            )
        at_once = max(1, MAX_TABLE // (num_gt * anchors))
        if batch > at_once:
            parts = [
                self(scores[i:j], pred_xyxy[i:j], centers_xy, gt_labels[i:j], gt_xyxy[i:j], gt_mask[i:j])
                for i, j in ((i, i + at_once) for i in range(0, batch, at_once))
            ]
            return Assignment(
                *(torch.cat([getattr(part, name) for part in parts]) for name in Assignment.__dataclass_fields__)
            )

        candidate = centers_inside(centers_xy, gt_xyxy) & gt_mask.unsqueeze(2)  # (B, G, A)
        overlap = complete_iou(gt_xyxy.unsqueeze(2), pred_xyxy.unsqueeze(1)).clamp_(min=0)
        overlap.masked_fill_(~candidate, 0.0)
        labels = gt_labels.long().clamp(0, classes - 1)  # padding may hold anything
        label_index = labels.unsqueeze(2).expand(-1, -1, anchors)
        score = scores.transpose(1, 2).gather(1, label_index)  # (B, G, A)
        metric = score.pow_(self.alpha) * overlap.pow(self.beta)
        positive = top_candidates(metric, self.top_k) & candidate
        positive = resolve_conflicts(positive, overlap)

        foreground = positive.any(dim=1)  # (B, A)
        gt_index = positive.to(torch.uint8).argmax(dim=1)  # (B, A)
        metric *= positive
        best_metric = metric.amax(dim=-1, keepdim=True)  # (B, G, 1)
        best_overlap = (overlap * positive).amax(dim=-1, keepdim=True)
        strength = (metric * (best_overlap / (best_metric + EPS))).amax(dim=1)  # (B, A), zero where background

        boxes = gt_xyxy.gather(1, gt_index.unsqueeze(2).expand(-1, -1, 4)) * foreground.unsqueeze(2)
        assigned_labels = labels.gather(1, gt_index)
        target_scores = torch.zeros_like(scores).scatter_(2, assigned_labels.unsqueeze(2), strength.unsqueeze(2))
        return Assignment(foreground, gt_index, boxes, target_scores)


def resolve_conflicts(positive: Tensor, overlap: Tensor) -> Tensor:
    """(B, G, A) -> (B, G, A): of several claims on an anchor, the ground truth around it that overlaps most gets it."""
    conflict = positive.sum(dim=1, keepdim=True) > 1  # (B, 1, A)
    winner = torch.zeros_like(positive).scatter_(1, overlap.argmax(dim=1, keepdim=True), True)
    return torch.where(conflict, winner, positive)
