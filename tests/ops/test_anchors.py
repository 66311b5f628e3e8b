"""Anchor centres and distances to the sides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.ops.anchors import ltrb_to_xyxy, make_anchors, xyxy_to_ltrb


def test_centres_level_by_level_row_by_row() -> None:
    centers, stride = make_anchors([torch.zeros(1, 5, 2, 3), torch.zeros(1, 5, 1, 2)], [8, 16])
    assert centers.tolist() == [
        [0.5, 0.5], [1.5, 0.5], [2.5, 0.5],
        [0.5, 1.5], [1.5, 1.5], [2.5, 1.5],
        [0.5, 0.5], [1.5, 0.5],
    ]  # fmt: skip
    assert stride.flatten().tolist() == [8] * 6 + [16] * 2


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_anchors_follow_the_layout_of_the_maps(shapes: list[tuple[int, int]], dtype: torch.dtype) -> None:
    """Centre k belongs to the k-th value of the flattened maps; float32 whatever the maps are."""
    strides = [2 ** (i + 2) for i in range(len(shapes))]
    maps = [torch.zeros(2, 1, *shape, dtype=dtype) for shape in shapes]
    centers, stride = make_anchors(maps, strides)
    assert centers.dtype == stride.dtype == torch.float32
    expected = [
        (column + 0.5, row + 0.5, s)
        for (height, width), s in zip(shapes, strides, strict=True)
        for row in range(height)
        for column in range(width)
    ]
    assert torch.cat([centers, stride], dim=1).tolist() == [list(x) for x in expected]


def test_as_many_strides_as_maps() -> None:
    with pytest.raises(ValueError, match=r"strict|shorter|longer"):
        make_anchors([torch.zeros(1, 1, 2, 2)], [8, 16])


@given(st.lists(st.tuples(*[st.floats(-20, 20, width=32)] * 6), min_size=1, max_size=6))
def test_distances_round_trip(rows: list[tuple[float, ...]]) -> None:
    x = torch.tensor(rows)
    dist_ltrb, centers = x[:, :4], x[:, 4:]
    boxes = ltrb_to_xyxy(dist_ltrb, centers)
    torch.testing.assert_close(xyxy_to_ltrb(boxes, centers), dist_ltrb, rtol=1e-5, atol=1e-4)


def test_distances_of_one_box() -> None:
    centers = torch.tensor([[2.5, 3.5]])
    assert ltrb_to_xyxy(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), centers).tolist() == [[1.5, 1.5, 5.5, 7.5]]
    assert xyxy_to_ltrb(torch.tensor([[3.0, 1.5, 5.5, 7.5]]), centers).tolist() == [[-0.5, 2.0, 3.0, 4.0]]
