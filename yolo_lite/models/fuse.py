"""The detector as inference computes it: BatchNorm in the convolution before it, blocks rewritten."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolo_lite.models.blocks import C2f, ConvNormAct, replace_modules
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
    for module in list(fused.modules()):
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    replace_modules(fused, rewritten)
    return fused.requires_grad_(False)


def rewritten(module: nn.Module) -> nn.Module | None:
    """What takes the place of a block for inference, its BatchNorm folded before; None: it stays."""
    if isinstance(module, HaarDown) and isinstance(module.norm, nn.BatchNorm2d):
        return nn.Sequential(fuse_conv_bn_eval(haar_as_conv(module), module.norm), module.act)
    make = REWRITTEN.get(type(module))
    return make(module) if make is not None else None
