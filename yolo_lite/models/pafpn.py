"""Path-aggregation neck of YOLOv8: coarse-to-fine, then fine-to-coarse, concatenating on the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolo_lite.models.blocks import C2f, ConvNormAct
from yolo_lite.models.edge_blocks import Mixer, SeparableConv


def enlarge(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class TopDown(C2f):
    """C2f of a coarse level, enlarged, and the next finer one.

    Args:
        coarse_channels, fine_channels: of the inputs.
        out_channels: of the output, which has the size of the finer level.
        depth: number of units.
    """

    def __init__(self, coarse_channels: int, fine_channels: int, out_channels: int, depth: int) -> None:
        super().__init__(coarse_channels + fine_channels, out_channels, depth)
        self.coarse_channels = coarse_channels

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        """(B, coarse_channels, H, W), (B, fine_channels, 2H, 2W) -> (B, out_channels, 2H, 2W)."""
        return super().forward(torch.cat([enlarge(coarse), fine], dim=1))


class PAFPN(nn.Module):
    """(levels, finest first) -> as many levels, every level informed by all the others.

    Args:
        channels: channels of the levels, finest first.
        depth: units in each C2f.
        out_channels: channels of the outputs; None: those of the inputs.
        slim: separable down-sampling, and mixers in place of bottlenecks on the coarsest level, where dense
            convolutions have most of their parameters and least of their work.
    """

    def __init__(
        self, channels: Sequence[int], depth: int, out_channels: Sequence[int] | None = None, slim: bool = False
    ) -> None:
        super().__init__()
        out = list(out_channels or channels)
        middle = [*out[:-1], channels[-1]]  # of the levels after the way down, where the coarsest is as it came
        last = len(out) - 1
        self.top_down = nn.ModuleList(TopDown(middle[i + 1], channels[i], out[i], depth) for i in range(last))
        self.down = nn.ModuleList(
            SeparableConv(c, c, stride=2) if slim else ConvNormAct(c, c, 3, stride=2) for c in out[:last]
        )
        self.bottom_up = nn.ModuleList(
            C2f(out[i] + middle[i + 1], out[i + 1], depth, unit=Mixer if slim and i + 1 == last else None)
            for i in range(last)
        )
        self.out_channels = out

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        levels = list(pyramid)
        for i in reversed(range(len(self.top_down))):
            levels[i] = self.top_down[i](levels[i + 1], levels[i])
        for i, (down, merge) in enumerate(zip(self.down, self.bottom_up, strict=True)):
            levels[i + 1] = merge(torch.cat([down(levels[i]), levels[i + 1]], dim=1))
        return levels
