"""Blocks as inference computes them: the same outputs from fewer and larger operations, BatchNorm folded before.

A 1x1 convolution comes apart along its outputs and its inputs without a change of its result:

- along its outputs where they are split right after it, so that nothing has to be copied;
- along its inputs where some of them are enlarged before it: they are convolved while they are small;
- and where the same channels are concatenated several times, their weights are added up and they come once.

What it saves in ONNX Runtime is in benchmarks/README.md. Notation: B images, C channels, H x W pixels of a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolo_lite.models.blocks import C2f, ConvNormAct, chain
from yolo_lite.models.lite_blocks import CSPPC, PConvPair
from yolo_lite.models.pafpn import TopDown, enlarge

ALL = slice(None)


def conv_part(unit: ConvNormAct, outputs: slice, inputs: slice = ALL, with_bias: bool = True) -> nn.Conv2d:
    """Some outputs, of some inputs, of a unit's 1x1 convolution whose BatchNorm was folded."""
    conv = unit.conv
    assert conv.bias is not None and isinstance(unit.norm, nn.Identity)
    return pointwise(conv.weight[outputs, inputs], conv.bias[outputs] if with_bias else None)


def pointwise(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1x1 convolution of these weights (out, in, 1, 1), in memory of its own."""
    with torch.device("meta"):
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv


class FusedC2f(nn.Module):
    """`C2f` with a convolution for each half: (B, in, H, W) -> (B, out, H, W).

    Args:
        block: whose weights it takes.
        inputs: of the block's channels, those that the halves are convolved from.
    """

    def __init__(self, block: C2f, inputs: slice = ALL) -> None:
        super().__init__()
        half = block.half_channels
        self.first = conv_part(block.split, slice(half), inputs)
        self.second = conv_part(block.split, slice(half, None), inputs)
        self.act = block.split.act
        self.units, self.merge = block.units, block.merge

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.first(x), self.second(x))

    def finish(self, first: Tensor, second: Tensor) -> Tensor:
        """Both halves, (B, C, H, W) before their activation, through the units."""
        return chain([self.act(first), self.act(second)], self.units, self.merge)


class FusedTopDown(FusedC2f):
    """`TopDown` that convolves the coarse map before it enlarges it."""

    def __init__(self, block: TopDown) -> None:
        super().__init__(block, slice(block.coarse_channels, None))
        half, coarse = block.half_channels, slice(block.coarse_channels)
        self.coarse_first = conv_part(block.split, slice(half), coarse, with_bias=False)
        self.coarse_second = conv_part(block.split, slice(half, None), coarse, with_bias=False)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        first = self.first(fine) + enlarge(self.coarse_first(coarse))
        second = self.second(fine) + enlarge(self.coarse_second(coarse))
        return self.finish(first, second)


class FusedCSPPC(nn.Module):
    """`CSPPC` whose untouched channels reach the last convolution once: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, block: CSPPC) -> None:
        super().__init__()
        assert isinstance(block.units[0], PConvPair)
        half, width = block.half_channels, block.units[0].width
        self.first = conv_part(block.split, slice(half))
        self.head = conv_part(block.split, slice(half, half + width))
        self.rest = conv_part(block.split, slice(half + width, None))
        self.act = block.split.act
        self.units = block.units
        merge = block.merge.conv
        # (out, half) of the first half, then of the second and of what every unit made of it
        weights = merge.weight.split(half, dim=1)
        rest = torch.stack([weight[:, width:] for weight in weights[1:]]).sum(dim=0)
        heads = [weight[:, :width] for weight in weights[1:]]
        self.merge = pointwise(torch.cat([weights[0], rest, *heads], dim=1), merge.bias)
        self.merge_act = block.merge.act

    def forward(self, x: Tensor) -> Tensor:
        heads = [self.act(self.head(x))]
        for unit in self.units:
            heads.append(unit(heads[-1]))
        return self.merge_act(self.merge(torch.cat([self.act(self.first(x)), self.act(self.rest(x)), *heads], dim=1)))
