"""Depthwise blocks: what they compute, and where the slim neck and the separable head use them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_lite.models import build_model
from yolo_lite.models.edge_blocks import Mixer, SeparableConv
from yolo_lite.models.pafpn import PAFPN


def randomised(module: nn.Module) -> nn.Module:
    """With statistics and weights that let every part matter."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, (low, high) in ((part.running_mean, (-1, 1)), (part.running_var, (0.5, 2))):
                assert values is not None
                nn.init.uniform_(values, low, high)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
    return module.eval()


def test_a_mixer_adds_to_its_input() -> None:
    """Without its last unit's weight it is the identity; no channel meets another before the 1x1 convolutions."""
    mixer = randomised(Mixer(6))
    x = torch.randn(2, 6, 9, 7)
    assert not torch.allclose(mixer(x), x)
    seen = mixer.depthwise(x)  # type: ignore[operator]
    changed = x.clone()
    changed[:, 2] += 1
    differs = (mixer.depthwise(changed) - seen).abs().amax(dim=(0, 2, 3)) > 0  # type: ignore[operator]
    assert differs.tolist() == [False, False, True, False, False, False]
    nn.init.zeros_(mixer.project.norm.weight)  # type: ignore[arg-type, union-attr]
    nn.init.zeros_(mixer.project.norm.bias)  # type: ignore[arg-type, union-attr]
    torch.testing.assert_close(mixer(x), x)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_separable_convolution_is_a_product_of_two(stride: int) -> None:
    """Of its two convolutions one dense kernel can be made: k[o, i] = pointwise[o, i] depthwise[i]."""
    unit = SeparableConv(5, 4, stride=stride).double().eval()
    x = torch.randn(2, 5, 8, 6, dtype=torch.float64)
    for part in (unit.depthwise, unit.pointwise):
        part.norm = nn.Identity()
    kernel = unit.pointwise.conv.weight * unit.depthwise.conv.weight.squeeze(1)  # (4, 5, 3, 3) of (4, 5, 1, 1)
    expected = nn.functional.silu(nn.functional.conv2d(x, kernel, stride=stride, padding=1))
    torch.testing.assert_close(unit(x), expected)


def test_the_slim_neck_gives_its_own_channels() -> None:
    neck = PAFPN([8, 16, 24], depth=1, out_channels=[4, 6, 10], slim=True).eval()
    maps = neck([torch.randn(1, c, s, s) for c, s in ((8, 16), (16, 8), (24, 4))])
    assert [tuple(x.shape) for x in maps] == [(1, 4, 16, 16), (1, 6, 8, 8), (1, 10, 4, 4)]
    kinds = [type(block.units[0]).__name__ for block in neck.bottom_up]  # type: ignore[union-attr, index]
    assert kinds == ["Bottleneck", "Mixer"]


@pytest.mark.parametrize("slim", [False, True])
def test_every_level_hears_of_every_other(slim: bool) -> None:
    neck = randomised(PAFPN([8, 16, 24], depth=1, out_channels=[8, 12, 16], slim=slim))
    pyramid = [torch.randn(1, c, s, s, requires_grad=True) for c, s in ((8, 16), (16, 8), (24, 4))]
    for out in neck(pyramid):
        gradients = torch.autograd.grad(out.sum(), pyramid, retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_scales_of_the_edge_model_grow() -> None:
    with torch.device("meta"):
        models = [build_model(f"yolov8{scale}-edge", 1) for scale in "nsm"]
    assert [model.spec.channels()[0] for model in models] == [16, 32, 48]
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts == sorted(counts)
