"""Folding BatchNorm into the convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from yolo_lite.models import YOLO, build_model, fuse_model
from yolo_lite.utils.profiling import count_gflops


def lived_in(variant: str, **parts: Any) -> YOLO:
    """A detector whose normalisation has seen something: every constant differs from its initial value."""
    torch.manual_seed(0)
    model = build_model(variant, 3, **parts)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.7, 1.3)
            m.bias.data.uniform_(-0.2, 0.2)
            m.running_mean.uniform_(-0.2, 0.2)
            m.running_var.uniform_(0.7, 1.3)
    return model


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ("yolov8n", {}),
        ("yolov8n", {"block": "cspc", "levels": "P2-P5", "act": "relu"}),
        ("yolov8n", {"block": ["none", "cspc", "faster", "faster"]}),
        ("yolov8n-lite", {}),
        ("yolov8n-lite", {"depth": 1.0}),
        ("yolov8n-lite-adown", {}),
        ("yolov8n-edge", {}),
        ("yolov8n-edge", {"downsample": "separable", "depth": 0.33, "act": "relu"}),
    ],
)
def test_fused_model_gives_the_same_without_batch_norm(variant: str, parts: dict[str, Any]) -> None:
    model = lived_in(variant, **parts).train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    fused = fuse_model(model)

    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert not fused.training
    assert not any(p.requires_grad for p in fused.parameters())

    assert model.training
    assert all(p.requires_grad for name, p in model.named_parameters() if name != "head.bins")
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], x) for name, x in before.items())

    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for expected, actual in zip(model.eval()(images), fused(images), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["yolov8n", "yolov8n-lite", "yolov8n-edge"])
def test_fused_model_computes_less(variant: str) -> None:
    """What is enlarged is convolved while it is small, and what is concatenated twice is multiplied once."""
    model = build_model(variant, 3)
    assert count_gflops(fuse_model(model), 64) < count_gflops(model, 64)


def test_a_fused_model_can_be_fused_again() -> None:
    images = torch.rand(1, 3, 64, 64)
    once = fuse_model(lived_in("yolov8n-edge"))
    for a, b in zip(once(images), fuse_model(once)(images), strict=True):
        assert torch.equal(a, b)


def test_fusing_shares_no_memory_with_the_original() -> None:
    model = lived_in("yolov8n-lite")
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in fuse_model(model).parameters()}


@pytest.mark.parametrize("variant", ["yolov8n-lite", "yolov8n-edge"])
def test_fusing_keeps_the_precision(variant: str) -> None:
    model = build_model(variant, 3).bfloat16()
    with torch.no_grad():
        maps = fuse_model(model)(torch.rand(1, 3, 64, 64).bfloat16())
    assert {x.dtype for x in maps} == {torch.bfloat16}
