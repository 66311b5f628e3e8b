"""Box arithmetic: clipping, and complete IoU against an implementation of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert

from yolo_lite.ops.boxes import clip_boxes, complete_iou

position = st.floats(-500, 500, width=32)
side = st.floats(1, 500, width=32)
box_xywh = st.tuples(position, position, side, side)
boxes_xywh = st.lists(box_xywh, min_size=1, max_size=8)


def reference_ciou(a: np.ndarray, b: np.ndarray) -> float:
    """CIoU of two xyxy boxes in float64, after arXiv:1911.08287."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    aw, ah, bw, bh = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    iou = width * height / (aw * ah + bw * bh - width * height)
    center_a, center_b = (a[:2] + a[2:]) / 2, (b[:2] + b[2:]) / 2
    outer = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    alpha = v / (1 - iou + v) if v else 0.0
    return iou - ((center_a - center_b) ** 2).sum() / (outer**2).sum() - alpha * v


def as_xyxy(boxes: list[tuple[float, ...]]) -> torch.Tensor:
    return box_convert(torch.tensor(boxes, dtype=torch.float32), "xywh", "xyxy")


@given(boxes_xywh, st.integers(1, 400), st.integers(1, 400))
def test_clipping_stays_inside_and_is_idempotent(boxes: list[tuple[float, ...]], height: int, width: int) -> None:
    clipped = clip_boxes(as_xyxy(boxes), height, width)
    assert (clipped >= 0).all()
    assert (clipped <= torch.tensor([width, height, width, height])).all()
    assert torch.equal(clip_boxes(clipped, height, width), clipped)


@settings(deadline=None, max_examples=200)
@given(box_xywh, box_xywh)
def test_complete_iou_equals_the_formula(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    a_xyxy, b_xyxy = as_xyxy([a]), as_xyxy([b])
    expected = reference_ciou(a_xyxy[0].double().numpy(), b_xyxy[0].double().numpy())
    assert complete_iou(a_xyxy, b_xyxy).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(box_xywh, box_xywh)
def test_complete_iou_is_bounded_and_symmetric(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    a_xyxy, b_xyxy = as_xyxy([a]), as_xyxy([b])
    forth, back = complete_iou(a_xyxy, b_xyxy), complete_iou(b_xyxy, a_xyxy)
    assert -1.5 - 1e-5 < forth.item() <= 1 + 1e-6
    torch.testing.assert_close(forth, back, rtol=1e-4, atol=1e-5)


@given(boxes_xywh)
def test_complete_iou_of_a_box_with_itself_is_one(boxes: list[tuple[float, ...]]) -> None:
    x = as_xyxy(boxes)
    torch.testing.assert_close(complete_iou(x, x), torch.ones(len(x)), rtol=0, atol=1e-5)


@given(box_xywh, st.floats(-1e-4, 1e-4), st.floats(-1e-4, 1e-4))
def test_complete_iou_of_nearly_equal_boxes_is_finite_with_its_gradient(
    a: tuple[float, ...], dx: float, dy: float
) -> None:
    """Where IoU rounds to one, the aspect weight divides by next to nothing."""
    a_xyxy = as_xyxy([a]).requires_grad_()
    value = complete_iou(a_xyxy, a_xyxy.detach() + torch.tensor([dx, dy, -dx, -dy]))
    value.sum().backward()
    assert value.isfinite().all()
    assert a_xyxy.grad is not None
    assert a_xyxy.grad.isfinite().all()


def test_complete_iou_of_empty_boxes_is_finite() -> None:
    a = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 9], [5, 5, 9, 5]], requires_grad=True)
    value = complete_iou(a[:, None], a.detach()[None])
    value.sum().backward()
    assert value.isfinite().all()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_complete_iou_broadcasts() -> None:
    torch.manual_seed(0)
    a = box_convert(torch.rand(2, 3, 4) * 50 + 1, "xywh", "xyxy")
    b = box_convert(torch.rand(2, 5, 4) * 50 + 1, "xywh", "xyxy")
    table = complete_iou(a[:, :, None], b[:, None])
    assert table.shape == (2, 3, 5)
    torch.testing.assert_close(table[1, 2, 4], complete_iou(a[1, 2], b[1, 4]))
