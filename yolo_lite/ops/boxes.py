"""Box arithmetic on tensors.

Boxes are (..., 4) in xyxy (left, top, right, bottom) unless the name says otherwise; any unit, the same for all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-7


def complete_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Complete IoU (CIoU, arXiv:1911.08287 eq. 8-11), element by element over broadcast boxes.

    IoU less the squared distance of the centres over the squared diagonal of the enclosing box, less the weighted
    difference of the aspect ratios. The weight counts as a constant for the gradient, as in the paper.

    Args:
        a_xyxy: (..., 4), for pairs insert axes: (B, G, 1, 4).
        b_xyxy: (..., 4), for pairs insert axes: (B, 1, A, 4).

    Returns:
        (...) values in (-1.5, 1].
    """
    ax1, ay1, ax2, ay2 = a_xyxy.unbind(-1)
    bx1, by1, bx2, by2 = b_xyxy.unbind(-1)
    aw, ah, bw, bh = ax2 - ax1, ay2 - ay1 + EPS, bx2 - bx1, by2 - by1 + EPS
    inter_w = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    inter_h = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    inter = inter_w * inter_h
    # Areas, centres and aspect angles are per box, not per pair: computed before broadcasting.
    union = aw * ah + bw * bh - inter + EPS
    iou = inter / union

    outer_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    outer_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    diagonal = outer_w.square() + outer_h.square() + EPS
    distance = ((bx1 + bx2) - (ax1 + ax2)).square() + ((by1 + by2) - (ay1 + ay2)).square()

    aspect = (4 / math.pi**2) * (torch.atan(bw / bh) - torch.atan(aw / ah)).square()
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + EPS))
    return iou - distance / (4 * diagonal) - weight * aspect


def clip_boxes(boxes_xyxy: Tensor, height: float, width: float) -> Tensor:
    """Clip to an image of `height` x `width` pixels."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=-1)
