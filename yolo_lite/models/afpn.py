"""Asymptotic feature pyramid (AFPN, arXiv:2306.15988) with adaptive spatial fusion (ASFF, arXiv:1911.09516).

Notation: L levels, finest first; k levels take part in a stage; c_i channels of level i inside the pyramid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from yolo_lite.models.blocks import ConvNormAct

NeckInit = Literal["identity", "published", "default"]

BLOCKS_PER_LEVEL = 4
WEIGHT_CHANNELS = 8


def conv_relu(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> ConvNormAct:
    """Convolution, BatchNorm, ReLU: the unit of the whole pyramid."""
    return ConvNormAct(in_channels, out_channels, kernel, stride, act="relu")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions (with bias) and BatchNorm, input added before the last ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3, act="relu", bias=True)
        self.conv2 = ConvNormAct(channels, channels, 3, act="none", bias=True)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x)) + x)


class WideReduction(ConvNormAct):
    """A strided unit that stays in float32 on a CPU: with bf16 in channels-last order, oneDNN (torch 2.14) crashes on
    the 8x8 kernel where the map has 16x16 cells. It is a thousandth of the work.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


def make_resample(in_channels: int, out_channels: int, source: int, target: int) -> nn.Module:
    """Bring level `source` to the size and the channels of level `target` (0 is the finest)."""
    if source == target:
        return nn.Identity()
    if source < target:  # finer to coarser: kernel = stride, padding (kernel - 1) // 2 as in the published model
        factor = 2 ** (target - source)
        unit = WideReduction if factor >= 8 else ConvNormAct
        return unit(in_channels, out_channels, factor, stride=factor, act="relu")
    factor = 2 ** (source - target)
    upsample = nn.Upsample(scale_factor=float(factor), mode="bilinear", align_corners=False)
    return nn.Sequential(conv_relu(in_channels, out_channels), upsample)


class ASFF(nn.Module):
    """Adaptive spatial fusion: a softmax per pixel weighs k maps of equal shape, then a 3x3 unit."""

    def __init__(self, channels: int, num_inputs: int) -> None:
        super().__init__()
        self.compress = nn.ModuleList(conv_relu(channels, WEIGHT_CHANNELS) for _ in range(num_inputs))
        self.logits = nn.Conv2d(WEIGHT_CHANNELS * num_inputs, num_inputs, 1)
        self.out = conv_relu(channels, channels, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """k maps (B, c, H, W) -> (B, c, H, W)."""
        compressed = [compress(x) for compress, x in zip(self.compress, maps, strict=True)]
        weights = self.logits(torch.cat(compressed, dim=1)).softmax(dim=1)  # (B, k, H, W)
        fused = maps[0] * weights[:, 0:1]
        for i, x in enumerate(maps[1:], start=1):
            fused = fused + x * weights[:, i : i + 1]
        return self.out(fused)


class FusionStage(nn.Module):
    """Every one of k levels receives all k levels, resampled to it, fused and refined."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        k = len(channels)
        self.resample = nn.ModuleList(
            nn.ModuleList(make_resample(channels[i], channels[j], i, j) for i in range(k)) for j in range(k)
        )
        self.fuse = nn.ModuleList(ASFF(c, k) for c in channels)
        self.refine = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(c) for _ in range(BLOCKS_PER_LEVEL))) for c in channels
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        outputs = []
        for resample, fuse, refine in zip(self.resample, self.fuse, self.refine, strict=True):
            maps = [sampler(x) for sampler, x in zip(resample, levels, strict=True)]  # type: ignore[call-overload]
            outputs.append(refine(fuse(maps)))
        return outputs


class AFPN(nn.Module):
    """Levels join one after the other, from the finest: stage k fuses the finest k levels, k = 2..L.

    Args:
        in_channels: channels of the backbone's levels, finest first.
        out_channels: channels of every output level.
        divisor: the pyramid works on `in_channels / divisor`.
        init: `"identity"`: every residual block starts as the identity (its last BatchNorm weight is 0,
            arXiv:1706.02677 section 5.1), so that up to 24 random convolutions in chain do not drown what 4 to 32
            channels carry; `"published"` is that of the authors (convolutions Xavier-normal with gain 0.02, BatchNorm
            weight N(1, 0.02), bias 0); `"default"` keeps PyTorch's. benchmarks/README.md compares them.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, divisor: int = 8, init: NeckInit = "identity"
    ) -> None:
        super().__init__()
        channels = [c // divisor for c in in_channels]
        self.reduce = nn.ModuleList(conv_relu(a, c) for a, c in zip(in_channels, channels, strict=True))
        self.pre = nn.ModuleList(conv_relu(c, c) for c in channels)
        self.stages = nn.ModuleList(FusionStage(channels[:k]) for k in range(2, len(channels) + 1))
        self.expand = nn.ModuleList(conv_relu(c, out_channels) for c in channels)
        self.out_channels = [out_channels] * len(channels)
        if init == "identity":
            self.apply(init_identity)
        elif init == "published":
            self.apply(init_published)
        elif init != "default":
            raise ValueError(f"unknown neck initialisation {init!r}: choose identity, published or default")

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        levels = [pre(reduce(x)) for reduce, pre, x in zip(self.reduce, self.pre, pyramid, strict=True)]
        for k, stage in enumerate(self.stages, start=2):
            levels = stage(levels[:k]) + levels[k:]
        return [expand(x) for expand, x in zip(self.expand, levels, strict=True)]


def init_identity(module: nn.Module) -> None:
    """Residual blocks start as the identity, for `Module.apply`."""
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)  # type: ignore[arg-type]


def init_published(module: nn.Module) -> None:
    """The initialisation of the AFPN authors, for `Module.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight, gain=0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
