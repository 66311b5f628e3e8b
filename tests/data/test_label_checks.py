"""Repeated boxes, against comparing every pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.data.index import DetectionIndex, PackedStrings
from yolo_lite.data.label_checks import SAME_IOU, box_findings, duplicated_boxes, pair_iou

COORDINATE = st.sampled_from([0.0, 0.5, 1.0, 10.0, 10.4, 40.0])
SIDE = st.sampled_from([0.0, 10.0, 10.3, 30.0, 30.5, 31.0])
ROW = st.tuples(st.integers(0, 2), st.integers(0, 1), st.booleans(), COORDINATE, COORDINATE, SIDE, SIDE)


def index_of(rows: list[tuple[float, ...]]) -> DetectionIndex:
    """An index of three images with rows of image, label, crowd and box."""
    rows = sorted(rows, key=lambda row: row[0])
    owner = np.array([row[0] for row in rows], dtype=np.int64)
    boxes = np.array([row[3:] for row in rows], dtype=np.float32).reshape(-1, 4)
    crowd = np.array([row[2] for row in rows], dtype=bool)
    return DetectionIndex(
        source=Path("x.json"),
        image_dir=Path(),
        class_names=["a", "b"],
        category_ids=[1, 2],
        file_names=PackedStrings(["0", "1", "2"]),
        image_ids=np.arange(3),
        sizes=np.full((3, 2), 100, dtype=np.int32),
        offsets=np.searchsorted(owner, np.arange(4)).astype(np.int64),
        boxes_xywh=boxes,
        labels=np.array([row[1] for row in rows], dtype=np.int32),
        areas=boxes[:, 2] * boxes[:, 3],
        is_crowd=crowd,
        is_trainable=~crowd,
    )


def test_tiny_is_meant_at_the_training_size() -> None:
    """Images of 100 px, trained at 320: a factor of 3.2. At 1600, what counts is less than a pixel of the file."""
    index = index_of([(0, 0, False, 10, 10, side, 30) for side in (0.5, 0.62, 0.63, 1.01, 20)])
    counts = {
        size: {f.kind: f.count for f in box_findings(index, "train", size)}.get("box-tiny", 0)
        for size in (96, 198, 199, 320, 1600)
    }
    assert counts == {96: 4, 198: 4, 199: 3, 320: 3, 1600: 3}


@pytest.mark.parametrize(("left", "kind"), [(-0.9, ""), (-1.5, "box-partly-outside"), (-29, ""), (-31, "box-outside")])
def test_a_pixel_over_the_edge_is_nothing(left: float, kind: str) -> None:
    index = index_of([(0, 0, False, left, 10, 30, 30)])
    expected = {kind} if kind else {"box-partly-outside"} if left < -1 else set()
    assert {finding.kind for finding in box_findings(index, "train", 640)} == expected


@given(st.lists(ROW, max_size=25))
@settings(max_examples=200, deadline=None)
def test_repeated_boxes(rows: list[tuple[float, ...]]) -> None:
    index = index_of(rows)
    expected = np.zeros(len(rows), dtype=bool)
    owner = np.repeat(np.arange(3), np.diff(index.offsets))
    boxes = index.boxes_xywh.astype(np.float64)
    usable = (boxes[:, 2:] > 0).all(axis=1) & ~index.is_crowd
    for j in range(len(rows)):
        for i in range(j):
            if usable[i] and usable[j] and owner[i] == owner[j] and index.labels[i] == index.labels[j]:
                expected[j] |= bool(pair_iou(boxes[i : i + 1], boxes[j : j + 1])[0] >= SAME_IOU)
    assert duplicated_boxes(index).tolist() == expected.tolist()
