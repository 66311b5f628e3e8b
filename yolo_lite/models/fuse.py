"""Fold every BatchNorm into the convolution before it, and branches into one convolution, for inference."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolo_lite.models.blocks import ConvNormAct
from yolo_lite.models.branches import BranchedConv
from yolo_lite.models.lite_blocks import HaarDown
from yolo_lite.models.yolo import YOLO


def haar_as_conv(module: HaarDown) -> nn.Conv2d:
    """The 2x2 convolution of stride 2 that equals Haar transform and 1x1 convolution."""
    conv = nn.Conv2d(module.conv.in_channels // 4, module.conv.out_channels, 2, stride=2)
    conv.weight.data.copy_(module.kernel())
    assert module.conv.bias is not None and conv.bias is not None
    conv.bias.data.copy_(module.conv.bias)
    return conv.to(module.conv.weight.device).eval()


def fuse_model(model: YOLO) -> YOLO:
    """A copy of `model` in eval mode without BatchNorm and branches: same outputs, fewer operations.

    The original is untouched.
    """
    fused = copy.deepcopy(model).eval()
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, HaarDown) and isinstance(child.norm, nn.BatchNorm2d):
                conv = fuse_conv_bn_eval(haar_as_conv(child), child.norm)
                setattr(parent, name, nn.Sequential(conv, child.act))
            elif isinstance(child, BranchedConv):
                setattr(parent, name, child.merged())
            elif isinstance(child, ConvNormAct) and isinstance(child.norm, nn.BatchNorm2d):
                child.conv = fuse_conv_bn_eval(child.conv, child.norm)  # type: ignore[type-var]
                child.norm = nn.Identity()
    return fused.requires_grad_(False)
