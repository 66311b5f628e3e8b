"""The whole detector: shapes, gradients, initial state, and what it refuses to build."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from yolo_lite.models import VARIANTS, build_model
from yolo_lite.utils.errors import UserError


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@pytest.mark.parametrize(
    ("variant", "parts", "strides"),
    [
        ("yolov8n", {}, (8, 16, 32)),
        ("yolov8m", {}, (8, 16, 32)),
        ("yolov8n-lite", {}, (4, 8, 16, 32)),
        ("yolov8s-lite", {}, (4, 8, 16, 32)),
        ("yolov8n-lite-adown", {}, (4, 8, 16, 32)),
        ("yolov8n", {"levels": "P2-P5"}, (4, 8, 16, 32)),
        ("yolov8n", {"neck": "afpn", "levels": "P3-P5"}, (8, 16, 32)),
        ("yolov8n-lite", {"neck": "pafpn"}, (8, 16, 32)),
        ("yolov8n-lite", {"neck_divisor": 4, "neck_width": 64}, (4, 8, 16, 32)),
        ("yolov8n", {"downsample": "adown", "reg_max": 8}, (8, 16, 32)),
        ("yolov8n-edge", {}, (8, 16, 32)),
        ("yolov8m-edge", {"reg_max": 8}, (8, 16, 32)),
        ("yolov8n-edge", {"levels": "P2-P5", "head": "dense", "block": "mixer"}, (4, 8, 16, 32)),
        ("yolov8n-edge", {"neck": "afpn", "neck_divisor": 4, "downsample": "separable"}, (4, 8, 16, 32)),
        ("yolov8n-lite", {"neck": "slim", "block": ["none", "cspc", "c2f", "mixer"]}, (8, 16, 32)),
    ],
)
def test_output_shapes(variant: str, parts: dict[str, Any], strides: tuple[int, ...], size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = build_model(variant, 3, **parts)
        maps = model(torch.zeros(2, 3, *size))
    channels = 4 * parts.get("reg_max", 16) + 3
    assert tuple(model.strides) == strides
    assert [tuple(x.shape) for x in maps] == [(2, channels, size[0] // s, size[1] // s) for s in strides]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds(variant: str) -> None:
    with torch.device("meta"):
        assert len(build_model(variant, 3).head.box) == (4 if "lite" in variant else 3)


@pytest.mark.parametrize("variant", ["yolov8n", "yolov8n-lite", "yolov8n-lite-adown", "yolov8n-edge"])
def test_gradients_reach_every_trainable_parameter(variant: str) -> None:
    torch.manual_seed(0)
    # Residual blocks that start as identities hold back the first step's gradient by design.
    model = build_model(variant, 2, neck_init="default" if "lite" in variant else None).train()
    maps = model(torch.rand(2, 3, 96, 96))
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {"head.bins"}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
            if not name.endswith("conv.bias"):  # before a BatchNorm in training mode a bias has no effect
                assert p.grad.abs().max() > 0, name


def test_initial_bias_and_bins() -> None:
    head = build_model("yolov8n-lite", 5).head
    assert torch.equal(head.bins, torch.arange(16.0))
    for box, classes, stride in zip(head.box, head.classes, head.strides, strict=True):
        assert (box[-1].bias == 1).all()
        assert classes[-1].bias[0].item() == pytest.approx(math.log(5 / 5 / (640 / stride) ** 2))


@pytest.mark.parametrize("image_size", [64, 96])
def test_small_images_in_bfloat16_and_channels_last(image_size: int) -> None:
    """At 64 px the pyramid's widest kernel once crashed the interpreter."""
    model = build_model("yolov8n-lite", 2).train().to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model(images)
    sum(x.float().square().mean() for x in maps).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_published_neck_initialisation() -> None:
    torch.manual_seed(0)
    published = build_model("yolov8n-lite", 1, neck_init="published").neck
    default = build_model("yolov8n-lite", 1).neck
    weight = published.expand[3].conv.weight.detach()
    assert weight.std() == pytest.approx(0.02 * math.sqrt(2 / (32 + 128)), rel=0.1)
    assert default.expand[3].conv.weight.std().item() > 10 * weight.std()
    norms = torch.cat([m.weight.detach() for m in published.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    assert norms.mean() == pytest.approx(1, abs=0.01)
    assert norms.std() == pytest.approx(0.02, rel=0.2)


def test_residual_blocks_of_the_neck_start_as_identities() -> None:
    x = torch.rand(2, 4, 8, 8)
    neck = build_model("yolov8n-lite", 1).neck
    assert torch.equal(neck.stages[0].refine[0](x), x)
    default = build_model("yolov8n-lite", 1, neck_init="default").neck
    assert not torch.equal(default.stages[0].refine[0](x), x)


def test_gradients_pass_the_identities_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    model = build_model("yolov8n-lite", 2).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        sum((x * torch.randn_like(x)).sum() for x in model(torch.rand(2, 3, 96, 96))).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        if p.requires_grad and not name.endswith("conv.bias"):
            assert p.grad is not None, name
            assert p.grad.abs().max() > 0, name


def test_evaluation_is_deterministic_and_changes_nothing() -> None:
    model = build_model("yolov8n-lite", 2).eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        first, second = model(images), model(images)
        alone = model(images[1:])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for both, one in zip(first, alone, strict=True):
        torch.testing.assert_close(both[1:], one, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize(
    ("variant", "num_classes", "parts", "named"),
    [
        ("yolov9", 1, {}, "yolov9"),
        ("yolov8n", 0, {}, "num_classes=0"),
        ("yolov8n", -3, {}, "num_classes=-3"),
        ("yolov8n", 1, {"neck_divisor": 4}, "neck_divisor=4"),
        ("yolov8n", 1, {"neck_width": 64}, "neck_width=64"),
        ("yolov8n", 1, {"neck_init": "published"}, "neck_init='published'"),
        ("yolov8n-lite", 1, {"neck": "pafpn", "neck_divisor": 4}, "neck_divisor=4"),
        ("yolov8n-lite", 1, {"neck_divisor": 0}, "neck_divisor=0"),
        ("yolov8n-lite", 1, {"neck_width": -1}, "neck_width=-1"),
        ("yolov8n", 1, {"neck": "bifpn"}, "bifpn"),
        ("yolov8n", 1, {"reg_max": 1}, "reg_max=1"),
        ("yolov8n", 1, {"width": 0.0}, "width=0.0"),
        ("yolov8n-edge", 1, {"neck_width": 64}, "this model has neck=slim"),
        ("yolov8n", 1, {"block": ["c2f", "mixer", "none"]}, "one for each of 4 stages"),
        ("yolov8n", 1, {"block": ["c2f", "mixer", "none", "resnet"]}, "resnet"),
        ("yolov8n", 1, {"colour": "red"}, "colour"),
    ],
)
def test_refusals_are_one_line(variant: str, num_classes: int, parts: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as error:
        build_model(variant, num_classes, **parts)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("parts", [{"block": "resnet"}, {"downsample": "pool"}, {"levels": "P1-P5"}])
def test_unknown_choices_are_user_errors(parts: dict[str, Any]) -> None:
    (value,) = parts.values()
    with pytest.raises(UserError, match=value):
        build_model("yolov8n", 1, **parts)


def test_neck_divisor_that_leaves_no_channels_is_refused() -> None:
    """The pyramid works on 32 / 64 = 0 channels of the finest level."""
    with pytest.raises(UserError, match="neck_divisor"):
        build_model("yolov8n-lite", 1, neck_divisor=64)


def test_the_activation_is_a_choice() -> None:
    usual, other = build_model("yolov8n", 2), build_model("yolov8n", 2, act="relu")
    count = sum(isinstance(m, nn.SiLU) for m in usual.modules())
    assert count == sum(isinstance(m, nn.ReLU) for m in other.modules()) > 0
    assert not any(isinstance(m, nn.SiLU) for m in other.modules())
    assert usual.state_dict().keys() == other.state_dict().keys()
    with pytest.raises(UserError, match="unknown act 'mish': choose one of silu, relu"):
        build_model("yolov8n", 2, act="mish")
