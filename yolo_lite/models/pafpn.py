"""Path-aggregation neck of YOLOv8: coarse-to-fine, then fine-to-coarse, concatenating on the way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo_lite.models.blocks import C2f, ConvNormAct


class PAFPN(nn.Module):
    """(levels, finest first) -> (the same shapes, every level informed by all the others).

    Args:
        channels: channels of the levels, finest first.
        depth: bottlenecks in each C2f.
    """

    def __init__(self, channels: Sequence[int], depth: int) -> None:
        super().__init__()
        fine_to_coarse = list(itertools.pairwise(channels))
        self.top_down = nn.ModuleList(C2f(fine + coarse, fine, depth) for fine, coarse in fine_to_coarse)
        self.down = nn.ModuleList(ConvNormAct(fine, fine, 3, stride=2) for fine, _ in fine_to_coarse)
        self.bottom_up = nn.ModuleList(C2f(fine + coarse, coarse, depth) for fine, coarse in fine_to_coarse)
        self.out_channels = list(channels)

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        levels = list(pyramid)
        for i in reversed(range(len(self.top_down))):
            coarse = F.interpolate(levels[i + 1], scale_factor=2.0, mode="nearest")
            levels[i] = self.top_down[i](torch.cat([coarse, levels[i]], dim=1))
        for i, (down, merge) in enumerate(zip(self.down, self.bottom_up, strict=True)):
            levels[i + 1] = merge(torch.cat([down(levels[i]), levels[i + 1]], dim=1))
        return levels
