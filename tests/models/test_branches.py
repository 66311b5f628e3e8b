"""Branches beside a convolution in training, and what is left of them afterwards; the choice of the activation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolo_lite.models import build_model
from yolo_lite.models.branches import BranchedConv
from yolo_lite.utils.errors import UserError


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(8, 8, 1, 1), (8, 8, 1, 8), (8, 8, 2, 1), (8, 12, 1, 1), (8, 12, 2, 4), (8, 8, 1, 2)]),
    st.integers(0, 1000),
)
def test_branches_become_one_convolution(shape: tuple[int, int, int, int], seed: int) -> None:
    """Dense, grouped and depthwise, with and without a stride: the same as all branches added up."""
    inputs, outputs, stride, groups = shape
    torch.manual_seed(seed)
    branched = BranchedConv(nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False))
    assert (branched.skip_norm is not None) == (inputs == outputs and stride == 1)
    for norm in branched.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, -1, 2)
            nn.init.uniform_(norm.bias, -1, 1)
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    branched.eval()
    before = {name: value.clone() for name, value in branched.state_dict().items()}
    x = torch.randn(2, inputs, 7, 6)
    with torch.no_grad():
        torch.testing.assert_close(branched.merged()(x), branched(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in branched.state_dict().items())


def test_every_3x3_convolution_has_branches_and_learns_with_them() -> None:
    model = build_model("yolov8n-edge", 2, branches=True)
    branched = [m for m in model.modules() if isinstance(m, BranchedConv)]
    inside = {id(m.square) for m in branched}
    assert branched
    assert not [
        m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and id(m) not in inside
    ]
    sum(x.pow(2).mean() for x in model(torch.rand(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    assert all(m.square.weight.grad is not None and m.point.weight.grad is not None for m in branched)


def test_the_activation_is_a_choice() -> None:
    usual, other = build_model("yolov8n", 2), build_model("yolov8n", 2, act="relu")
    count = sum(isinstance(m, nn.SiLU) for m in usual.modules())
    assert count == sum(isinstance(m, nn.ReLU) for m in other.modules()) > 0
    assert not any(isinstance(m, nn.SiLU) for m in other.modules())
    assert usual.state_dict().keys() == other.state_dict().keys()
    with pytest.raises(UserError, match="unknown act 'mish': choose one of silu, relu"):
        build_model("yolov8n", 2, act="mish")
