"""Decoupled anchor-free head of YOLOv8: box distributions and class logits per level, nothing shared.

Notation: B images, L levels, R bins of a box side's distribution (`reg_max`), C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from yolo_lite.models.blocks import ConvNormAct
from yolo_lite.models.edge_blocks import SeparableConv

Head = Literal["dense", "separable"]


def branch(in_channels: int, hidden: int, out_channels: int, kind: Head) -> nn.Sequential:
    """Two 3x3 units, dense or separable, and a 1x1 convolution with bias."""
    unit = SeparableConv if kind == "separable" else ConvNormAct
    return nn.Sequential(unit(in_channels, hidden, 3), unit(hidden, hidden, 3), nn.Conv2d(hidden, out_channels, 1))


class DetectHead(nn.Module):
    """(B, c_l, H_l, W_l) per level -> (B, 4R + C, H_l, W_l) per level: box logits first, then class logits.

    Args:
        in_channels: channels of the neck's levels, finest first.
        strides: input pixels per cell of each level.
        num_classes: C.
        base_channels: channels of the finest *backbone* level; they set the width of the hidden layers.
        reg_max: R.
        kind: dense or separable convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        base_channels: int,
        reg_max: int = 16,
        kind: Head = "dense",
    ) -> None:
        super().__init__()
        box_width = max(16, base_channels // 4, 4 * reg_max)
        class_width = max(base_channels, min(num_classes, 100))
        self.box = nn.ModuleList(branch(c, box_width, 4 * reg_max, kind) for c in in_channels)
        self.classes = nn.ModuleList(branch(c, class_width, num_classes, kind) for c in in_channels)
        # Counted among the parameters by convention (the DFL's fixed 1x1 convolution), never trained.
        self.bins = nn.Parameter(torch.arange(reg_max, dtype=torch.float32), requires_grad=False)
        self.num_classes = num_classes
        self.reg_max = reg_max
        self.strides = tuple(strides)
        self.num_outputs = 4 * reg_max + num_classes
        self.init_bias()

    def init_bias(self) -> None:
        """Start at plausible boxes and at about 5 objects of a class on a 640 px image."""
        for box, classes, stride in zip(self.box, self.classes, self.strides, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)  # type: ignore[index]
            prior = math.log(5 / self.num_classes / (640 / stride) ** 2)
            nn.init.constant_(classes[-1].bias, prior)  # type: ignore[index]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [
            torch.cat([box(x), classes(x)], dim=1)
            for box, classes, x in zip(self.box, self.classes, features, strict=True)
        ]
