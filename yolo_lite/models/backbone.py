"""The YOLOv8 backbone, with its block and its down-sampling to choose.

Notation: P2..P5 are the feature maps at strides 4, 8, 16, 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from yolo_lite.models.blocks import SPPF, C2f, ConvNormAct
from yolo_lite.models.edge_blocks import Mixer, SeparableConv
from yolo_lite.models.lite_blocks import CSPPC, ADown, FasterBlock, HaarDown

Block = Literal["c2f", "cspc", "faster", "mixer", "none"]
Downsample = Literal["conv", "haar", "adown", "separable"]


def make_block(kind: Block, channels: int, depth: int) -> nn.Module:
    """The stage block called `kind`."""
    if kind == "c2f":
        return C2f(channels, channels, depth, shortcut=True)
    if kind == "cspc":
        return CSPPC(channels, channels, depth)
    if kind == "faster":
        return C2f(channels, channels, depth, unit=FasterBlock)
    if kind == "mixer":
        return C2f(channels, channels, depth, unit=Mixer)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"unknown block {kind!r}: choose {', '.join(get_args(Block))}")


def make_downsample(kind: Downsample, in_channels: int, out_channels: int) -> nn.Module:
    """The down-sampling called `kind`: (B, in, H, W) -> (B, out, H/2, W/2)."""
    if kind == "conv":
        return ConvNormAct(in_channels, out_channels, 3, stride=2)
    if kind == "haar":
        return HaarDown(in_channels, out_channels)
    if kind == "adown":
        return ADown(in_channels, out_channels)
    if kind == "separable":
        return SeparableConv(in_channels, out_channels, stride=2)
    raise ValueError(f"unknown down-sampling {kind!r}: choose {', '.join(get_args(Downsample))}")


class Stage(nn.Module):
    """Halve the resolution, then refine."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, block: Block, downsample: Downsample) -> None:
        super().__init__()
        self.down = make_downsample(downsample, in_channels, out_channels)
        self.block = make_block(block, out_channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.down(x))


class Backbone(nn.Module):
    """Stem and four stages; SPPF closes the last one.

    Args:
        channels: channels after the stem and after each stage (5 numbers).
        depths: blocks in each stage (4 numbers).
        blocks: block of each stage (4 names).
        downsamples: down-sampling that opens each stage (4 names).
        num_levels: how many maps to return, counted from the coarsest: 3 gives P3..P5, 4 gives P2..P5.
    """

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        blocks: Sequence[Block],
        downsamples: Sequence[Downsample],
        num_levels: int,
    ) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, channels[0], 3, stride=2)
        self.stage2 = Stage(channels[0], channels[1], depths[0], blocks[0], downsamples[0])
        self.stage3 = Stage(channels[1], channels[2], depths[1], blocks[1], downsamples[1])
        self.stage4 = Stage(channels[2], channels[3], depths[2], blocks[2], downsamples[2])
        self.stage5 = Stage(channels[3], channels[4], depths[3], blocks[3], downsamples[3])
        self.pool = SPPF(channels[4], channels[4])
        self.num_levels = num_levels
        self.out_channels = list(channels[-num_levels:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) images in 0..1 -> the chosen levels, finest first."""
        p2 = self.stage2(self.stem(images))
        p3 = self.stage3(p2)
        p4 = self.stage4(p3)
        p5 = self.pool(self.stage5(p4))
        return [p2, p3, p4, p5][-self.num_levels :]
