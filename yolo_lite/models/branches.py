"""Convolutions with branches that training has and inference does not.

Source: RepVGG, arXiv:2101.03697, section 3.2; with depthwise convolutions MobileOne, arXiv:2206.04040.
Notation: B images, C channels, H x W pixels of a feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolo_lite.models.blocks import ConvNormAct, batch_norm


class BranchedConv(nn.Module):
    """A 3x3 convolution, a 1x1 one and, where both have the same shape, the input, each normalised, added up.

    One 3x3 convolution afterwards, see `merged`.

    Args:
        conv: the 3x3 convolution, without bias.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        inputs, outputs, stride = conv.in_channels, conv.out_channels, conv.stride
        self.square = conv
        self.square_norm = batch_norm(outputs)
        self.point = nn.Conv2d(inputs, outputs, 1, stride, groups=conv.groups, bias=False)  # type: ignore[arg-type]
        self.point_norm = batch_norm(outputs)
        self.skip_norm = batch_norm(outputs) if inputs == outputs and stride == (1, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y = self.square_norm(self.square(x)) + self.point_norm(self.point(x))
        return y if self.skip_norm is None else y + self.skip_norm(x)

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """The 3x3 convolution with bias that gives the same in eval mode."""
        merged = fuse_conv_bn_eval(self.square.eval(), self.square_norm.eval())
        point = fuse_conv_bn_eval(self.point.eval(), self.point_norm.eval())
        assert merged.bias is not None and point.bias is not None
        merged.weight += F.pad(point.weight, (1, 1, 1, 1))
        merged.bias += point.bias
        if (norm := self.skip_norm) is not None:
            assert norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            outputs = torch.arange(len(scale), device=scale.device)
            merged.weight[outputs, outputs % merged.weight.shape[1], 1, 1] += scale
            merged.bias += norm.bias - norm.running_mean * scale
        return merged


def add_branches(model: nn.Module) -> None:
    """Give every 3x3 convolution unit in a model the other branches."""
    for unit in list(model.modules()):
        if isinstance(unit, ConvNormAct) and isinstance(unit.conv, nn.Conv2d) and unit.conv.kernel_size == (3, 3):
            unit.conv = BranchedConv(unit.conv)
            unit.norm = nn.Identity()
