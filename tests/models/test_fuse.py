"""Folding BatchNorm into the convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolo_lite.models import YOLO, build_model, fuse_model


def lived_in(variant: str) -> YOLO:
    """A detector whose normalisation has seen something: every constant differs from its initial value."""
    torch.manual_seed(0)
    model = build_model(variant, 3)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.7, 1.3)
            m.bias.data.uniform_(-0.2, 0.2)
            m.running_mean.uniform_(-0.2, 0.2)
            m.running_var.uniform_(0.7, 1.3)
    return model


@pytest.mark.parametrize("variant", ["yolov8n", "yolov8n-lite", "yolov8n-lite-adown", "yolov8n-edge"])
def test_fused_model_gives_the_same_without_batch_norm(variant: str) -> None:
    model = lived_in(variant).train()
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
