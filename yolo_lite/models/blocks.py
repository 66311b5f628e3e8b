"""Building blocks of the baseline YOLOv8: convolution unit, C2f, SPPF.

Notation: B images, C channels, H x W pixels of a feature map. Every block maps (B, in, H, W) to (B, out, H', W').
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.03

Act = Literal["silu", "relu"]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with the constants used everywhere in the model (eps 1e-3, momentum 0.03)."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


class ConvNormAct(nn.Module):
    """Convolution, BatchNorm, activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: side of the square kernel.
        stride: step of the kernel; the padding is `(kernel - 1) // 2`.
        act: `"silu"`, `"relu"` or `"none"`.
        bias: the convolution has a bias of its own although a BatchNorm follows.
        groups: of channels that do not meet; as many as channels make it depthwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        act: str = "silu",
        bias: bool = False,
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)
        self.norm: nn.Module = batch_norm(out_channels)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def activation(name: str) -> nn.Module:
    """The activation called `name`: `"silu"`, `"relu"` or `"none"`."""
    if name == "silu":
        return nn.SiLU(inplace=True)
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"unknown activation {name!r}: choose silu, relu or none")


def set_activation(model: nn.Module, name: Act) -> None:
    """Put the activation called `name` in the place of every SiLU of a model."""
    replace_modules(model, lambda module: activation(name) if isinstance(module, nn.SiLU) else None)


def replace_modules(model: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put what `replacement` makes of a module in its place, all over a model; None leaves it where it is."""
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if (other := replacement(child)) is not None:
                setattr(parent, key, other)


class Bottleneck(nn.Module):
    """Two 3x3 convolution units, with the input added when `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3)
        self.conv2 = ConvNormAct(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Cross-stage partial block of YOLOv8: every bottleneck's output reaches the last convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; half of them run through the bottlenecks.
        depth: number of bottlenecks in chain.
        shortcut: add the input of each bottleneck to its output.
        unit: makes what takes the place of a bottleneck, from its number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int = 1,
        shortcut: bool = False,
        unit: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.half_channels = half = out_channels // 2
        self.split = ConvNormAct(in_channels, 2 * half)
        self.units = nn.ModuleList(unit(half) if unit else Bottleneck(half, shortcut) for _ in range(depth))
        self.merge = ConvNormAct((2 + depth) * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return chain(self.split(x).chunk(2, dim=1), self.units, self.merge)


def chain(halves: Sequence[Tensor], units: Iterable[nn.Module], merge: nn.Module) -> Tensor:
    """The second half through the units, one after the other; both halves and what every unit made are merged."""
    parts = list(halves)
    for unit in units:
        parts.append(unit(parts[-1]))
    return merge(torch.cat(parts, dim=1))


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast form: three 5x5 max-pools in chain, all four maps concatenated."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5) -> None:
        super().__init__()
        half = in_channels // 2
        self.reduce = ConvNormAct(in_channels, half)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)
        self.merge = ConvNormAct(4 * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.merge(torch.cat(maps, dim=1))
