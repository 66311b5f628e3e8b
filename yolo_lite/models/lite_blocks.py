"""Light-weight blocks: partial convolution (FasterNet), Haar and ADown down-sampling.

Sources: PConv arXiv:2303.03667; ADown arXiv:2402.13616 (YOLOv9); Haar wavelet down-sampling, Pattern Recognition 2023.
Notation: B images, C channels, H x W pixels of a feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo_lite.models.blocks import ConvNormAct, activation, batch_norm


class PConvPair(nn.Module):
    """Two partial convolutions in chain with nothing between: 3x3 on the first quarter of the channels.

    The remaining three quarters pass untouched, so only the quarter is handed in and out; the caller concatenates.
    """

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.width = channels // ratio
        self.conv1 = nn.Conv2d(self.width, self.width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(self.width, self.width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C/4, H, W) -> (B, C/4, H, W)."""
        return self.conv2(self.conv1(x))


class CSPPC(nn.Module):
    """C2f whose bottlenecks are pairs of partial convolutions without residual.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; half of them run through the units.
        depth: number of units in chain.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int = 1) -> None:
        super().__init__()
        self.half_channels = half = out_channels // 2
        self.split = ConvNormAct(in_channels, 2 * half)
        self.units = nn.ModuleList(PConvPair(half) for _ in range(depth))
        self.merge = ConvNormAct((2 + depth) * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.split(x).chunk(2, dim=1)
        # The untouched channels are the same tensor in every unit's output: one flat concatenation instead of a
        # nested one saves a copy per unit.
        parts = [first, second]
        for unit in self.units:
            width = unit.width
            head = parts[-2] if len(parts) > 2 else second[:, :width]
            parts += [unit(head), second[:, width:]]
        return self.merge(torch.cat(parts, dim=1))


class FasterBlock(nn.Module):
    """A partial convolution mixes pixels, two 1x1 convolutions mix channels; the input is added (FasterNet, fig. 4).

    The activation is SiLU, as everywhere here, in place of its ReLU or GELU.

    Args:
        channels: C of input and output.
        ratio: the convolution is on C / ratio channels.
        expansion: channels between the 1x1 convolutions, as a multiple of C.
    """

    def __init__(self, channels: int, ratio: int = 4, expansion: int = 2) -> None:
        super().__init__()
        self.width = channels // ratio
        self.partial = nn.Conv2d(self.width, self.width, 3, padding=1, bias=False)
        self.expand = ConvNormAct(channels, expansion * channels)
        self.project = nn.Conv2d(expansion * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        mixed = torch.cat([self.partial(x[:, : self.width]), x[:, self.width :]], dim=1)
        return x + self.project(self.expand(mixed))


# Rows: LL, rows, columns, diagonal of the orthonormal one-level Haar transform; columns: the pixels p q r s of a block
#   p q
#   r s
HAAR_BASIS = ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, -0.5, -0.5), (0.5, -0.5, 0.5, -0.5), (0.5, -0.5, -0.5, 0.5))


class HaarDown(nn.Module):
    """Haar transform, 1x1 convolution with bias, BatchNorm, ReLU: (B, in, H, W) -> (B, out, H/2, W/2).

    The transform is linear, so it is applied to the weight instead of the image: one 2x2 convolution of stride 2 gives
    the same result without four strided copies of the largest maps.
    """

    basis: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * in_channels, out_channels, 1)
        self.norm: nn.Module = batch_norm(out_channels)
        self.act = activation("relu")
        self.register_buffer("basis", torch.tensor(HAAR_BASIS).view(4, 2, 2), persistent=False)

    def kernel(self) -> Tensor:
        """The equivalent (out, in, 2, 2) kernel."""
        weight = self.conv.weight.view(self.conv.out_channels, 4, -1)  # (out, band, in)
        return torch.einsum("obi,bhw->oihw", weight, self.basis)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(F.conv2d(x, self.kernel(), self.conv.bias, stride=2)))


class ADown(nn.Module):
    """Down-sampling of YOLOv9: average, split; one half by a strided 3x3, the other by max-pool and 1x1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.average = nn.AvgPool2d(2, stride=1)
        self.conv = ConvNormAct(in_channels // 2, out_channels // 2, 3, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.project = ConvNormAct(in_channels // 2, out_channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.average(x).chunk(2, dim=1)
        return torch.cat([self.conv(first), self.project(self.pool(second))], dim=1)
