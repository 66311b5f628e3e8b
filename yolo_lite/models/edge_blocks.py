"""Blocks that cost little time on a CPU: depthwise convolutions between 1x1 ones.

Sources: depthwise separable convolution arXiv:1704.04861; depthwise before a widening pair of 1x1 convolutions
ConvNeXt arXiv:2201.03545 and MobileNetV4 arXiv:2404.10518.
Notation: B images, C channels, H x W pixels of a feature map.
"""

from __future__ import annotations

from torch import Tensor, nn

from yolo_lite.models.blocks import ConvNormAct


class Mixer(nn.Module):
    """A depthwise convolution mixes pixels, two 1x1 convolutions mix channels; the input is added.

    Args:
        channels: C of input and output.
        kernel: side of the depthwise convolution.
        expansion: channels between the 1x1 convolutions, as a multiple of C.
    """

    def __init__(self, channels: int, kernel: int = 3, expansion: int = 2) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(channels, channels, kernel, act="none", groups=channels)
        self.expand = ConvNormAct(channels, expansion * channels)
        self.project = ConvNormAct(expansion * channels, channels, act="none")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.expand(self.depthwise(x)))


class SeparableConv(nn.Module):
    """Depthwise convolution, then 1x1: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(in_channels, in_channels, kernel, stride, act="none", groups=in_channels)
        self.pointwise = ConvNormAct(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
