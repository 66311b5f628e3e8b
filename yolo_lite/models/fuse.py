"""The detector as inference computes it: BatchNorm in the convolution before it, blocks rewritten."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolo_lite.models.blocks import C2f, ConvNormAct
from yolo_lite.models.fused_blocks import FusedC2f, FusedCSPPC, FusedTopDown
from yolo_lite.models.lite_blocks import CSPPC, HaarDown
from yolo_lite.models.pafpn import TopDown
from yolo_lite.models.yolo import YOLO

REWRITTEN: dict[type[nn.Module], Callable[..., nn.Module]] = {C2f: FusedC2f, TopDown: FusedTopDown, CSPPC: FusedCSPPC}


def haar_as_conv(module: HaarDown) -> nn.Conv2d:
    """The 2x2 convolution of stride 2 that equals Haar transform and 1x1 convolution."""
    weight, bias = module.kernel(), module.conv.bias
    assert bias is not None
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 2, stride=2, device=weight.device, dtype=weight.dtype)
    conv.weight.data, conv.bias.data = weight.detach(), bias.detach().clone()  # type: ignore[union-attr]
    return conv.eval()


def fuse_model(model: YOLO) -> YOLO:
    """A copy of `model` in eval mode for inference: same outputs, fewer operations. The original is untouched."""
    fused = copy.deepcopy(model).eval()
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, HaarDown) and isinstance(child.norm, nn.BatchNorm2d):
                conv = fuse_conv_bn_eval(haar_as_conv(child), child.norm)
                setattr(parent, name, nn.Sequential(conv, child.act))
            elif isinstance(child, ConvNormAct) and isinstance(child.norm, nn.BatchNorm2d):
                child.conv = fuse_conv_bn_eval(child.conv, child.norm)
                child.norm = nn.Identity()
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if rewrite := REWRITTEN.get(type(child)):
                setattr(parent, name, rewrite(child))
    return fused.requires_grad_(False)
