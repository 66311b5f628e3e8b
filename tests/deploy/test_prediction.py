"""What a prediction can tell: names, counts, a drawing, supervision's detections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from yolo_lite.deploy.prediction import Prediction
from yolo_lite.utils.errors import UserError


def make(count: int = 2, **parts: object) -> Prediction:
    values = {
        "source": "a.jpg",
        "size": (60, 80),
        "boxes_xyxy": np.array([[10, 10, 40, 50], [20, 5, 70, 30]], np.float32)[:count].reshape(-1, 4),
        "scores": np.array([0.9, 0.4], np.float32)[:count],
        "labels": np.array([2, 0])[:count],
        "class_names": ("ant", "bee", "cow"),
    }
    return Prediction(**(values | parts))  # type: ignore[arg-type]


def test_names_and_counts() -> None:
    assert len(make()) == 2
    assert make().names == ["cow", "ant"]
    assert make().counts() == {"ant": 1, "cow": 1}
    assert repr(make()) == "<Prediction a.jpg: 1 ant, 1 cow>"
    assert repr(make(0, frame=3)) == "<Prediction a.jpg frame 3: nothing>"


def test_the_drawing_is_a_copy_with_the_boxes() -> None:
    image = np.full((60, 80, 3), 128, np.uint8)
    drawn = make(image=image).draw()
    assert drawn.shape == image.shape
    assert (image == 128).all()
    assert (drawn[30, 10] != 128).any()  # on a line
    assert (drawn[56:, 72:] == 128).all()  # beyond the boxes
    assert (make(0, image=image).draw() == image).all()


def test_a_file_is_read_again_to_be_drawn(tmp_path: Path, save_image: Callable[..., Path]) -> None:
    path = save_image(tmp_path / "a.png", np.full((60, 80, 3), 77, np.uint8))
    assert make(0, source=str(path)).draw()[0, 0, 0] == 77
    path.unlink()
    with pytest.raises(UserError, match=r"a\.png"):
        make(source=str(path)).draw()


@pytest.mark.parametrize("count", [0, 2])
def test_supervision(count: int) -> None:
    supervision = pytest.importorskip("supervision")
    found = make(count)
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == count
    np.testing.assert_array_equal(detections.xyxy, found.boxes_xyxy)
    np.testing.assert_array_equal(detections.confidence, found.scores)
    assert detections.class_id.tolist() == found.labels.tolist()
    assert list(detections["class_name"]) == found.names
    assert len(detections[detections.confidence > 0.5]) == min(1, count)
