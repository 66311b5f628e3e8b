"""Anchor centres: one per cell of every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def make_anchors(maps: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Centres of all cells, level by level, row by row.

    Args:
        maps: per level (B, channels, H_l, W_l); only shapes and device are read.
        strides: input pixels per cell of each level.

    Returns:
        centers_xy: (A, 2) in grid units of the cell's own level, (column + 0.5, row + 0.5).
        stride: (A, 1) input pixels per grid unit.
    """
    centers, scale = [], []
    for x, stride in zip(maps, strides, strict=True):
        height, width = x.shape[-2:]
        columns = torch.arange(width, device=x.device, dtype=torch.float32) + 0.5
        rows = torch.arange(height, device=x.device, dtype=torch.float32) + 0.5
        grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
        centers.append(torch.stack([grid_x, grid_y], dim=-1).view(-1, 2))
        scale.append(torch.full((height * width, 1), float(stride), device=x.device))
    return torch.cat(centers), torch.cat(scale)


def ltrb_to_xyxy(dist_ltrb: Tensor, centers_xy: Tensor) -> Tensor:
    """Distances to the sides (..., A, 4) and centres (A, 2) -> boxes (..., A, 4), in the same unit."""
    left_top, right_bottom = dist_ltrb.split(2, dim=-1)
    return torch.cat([centers_xy - left_top, centers_xy + right_bottom], dim=-1)


def xyxy_to_ltrb(boxes_xyxy: Tensor, centers_xy: Tensor) -> Tensor:
    """Boxes (..., A, 4) and centres (A, 2) -> distances to the sides (..., A, 4), negative where outside."""
    low, high = boxes_xyxy.split(2, dim=-1)
    return torch.cat([centers_xy - low, high - centers_xy], dim=-1)
