"""Boxes from segmentations, against masks that pycocotools draws, and what is refused before it reaches C code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from yolo_lite.data.coco import read_coco
from yolo_lite.data.masks import measure_segmentation, with_box
from yolo_lite.utils.errors import UserError

RECTANGLE = [10, 20, 40, 20, 40, 30, 10, 30]


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE counts, column by column, beginning with zeros."""
    flat = np.concatenate([[0], mask.flatten(order="F"), [2]])
    ends = np.flatnonzero(np.diff(flat.astype(int)))
    counts = np.diff(np.concatenate([[0], ends]))
    return (counts.tolist() if mask.size else [])[: len(counts)]


def extent(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)))
def test_both_kinds_of_rle_give_the_extent_of_the_mask(mask: np.ndarray) -> None:
    size = list(mask.shape)
    packed = coco_mask.encode(np.asfortranarray(mask))
    for counts in (packed["counts"].decode(), runs(mask)):
        box, area = measure_segmentation({"size": size, "counts": counts}, "here")
        assert area == mask.sum()
        if mask.any():
            assert box == extent(mask)
        else:
            assert box[2] * box[3] == 0


def test_polygons() -> None:
    assert measure_segmentation([RECTANGLE], "here") == ([10, 20, 30, 10], 300)
    triangle = [100.5, 50, 110.5, 50, 100.5, 60]
    assert measure_segmentation([RECTANGLE, triangle], "here") == ([10, 20, 100.5, 40], 350)


def read(tmp_path: Path, annotation: dict[str, Any]) -> Any:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 200}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **annotation}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "train.json", tmp_path)


@pytest.mark.parametrize("bbox", [{}, {"bbox": None}, {"bbox": []}], ids=["no key", "null", "empty"])
def test_annotations_without_box(tmp_path: Path, bbox: dict[str, Any]) -> None:
    index = read(tmp_path, {"segmentation": [RECTANGLE], **bbox})
    assert index.boxes_xywh.tolist() == [[10, 20, 30, 10]]
    assert index.areas.tolist() == [300]
    assert index.is_trainable.all()


def test_a_mask_of_another_size_is_told(tmp_path: Path) -> None:
    """As of an image that was made smaller after the masks were drawn: its box would lie elsewhere."""
    mask = {"size": [5, 6], "counts": [7, 2, 21]}
    with pytest.raises(UserError, match=r"annotations\[0\]: the segmentation is of 6x5 pixels, its image of \d+x\d+"):
        read(tmp_path, {"segmentation": mask})


def test_what_the_file_says_wins(tmp_path: Path) -> None:
    index = read(tmp_path, {"segmentation": [RECTANGLE], "bbox": [1, 2, 3, 4]})
    assert index.boxes_xywh.tolist() == [[1, 2, 3, 4]]
    assert index.areas.tolist() == [12]
    assert read(tmp_path, {"segmentation": [RECTANGLE], "area": 7}).areas.tolist() == [7]


def test_crowds_keep_their_flag(tmp_path: Path) -> None:
    mask = np.zeros((100, 200), dtype=np.uint8)
    mask[5:15, 20:60] = 1
    index = read(tmp_path, {"segmentation": {"size": [100, 200], "counts": runs(mask)}, "iscrowd": 1})
    assert index.boxes_xywh.tolist() == [[20, 5, 40, 10]]
    assert index.areas.tolist() == [400]
    assert index.is_crowd.all()


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [RECTANGLE, []],
        [1, 2, 3, 4, 5, 6],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 1e30]],
        [[1, 2, 3, 4, 5, True]],
        "polygon",
        7,
        {"counts": [1, 2]},
        {"size": [2, 2]},
        {"size": [0, 2], "counts": "0"},
        {"size": [2, -2], "counts": [4]},
        {"size": [2.0, 2], "counts": [4]},
        {"size": [2**31, 2**31], "counts": [4]},
        {"size": "22", "counts": [4]},
        {"size": [2, 2], "counts": [4, 1]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": []},
        {"size": [2, 2], "counts": ["4"]},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "o"},  # ends inside a number
        {"size": [2, 2], "counts": "1\0"},
        {"size": [2, 2], "counts": "żółw"},
        {"size": [2, 2], "counts": "0ooooooooo0"},
        {"size": [2, 2], "counts": "0X0"},  # more pixels than the image has
        {"size": [2, 2], "counts": None},
    ],
    ids=repr,
)
def test_what_is_no_segmentation(tmp_path: Path, segmentation: Any) -> None:
    with pytest.raises(UserError, match=r"train\.json: annotations\[0\].*give a bbox"):
        read(tmp_path, {"segmentation": segmentation})


def test_a_sound_box_hides_a_broken_segmentation(tmp_path: Path) -> None:
    """Nothing here uses it, and official COCO has such."""
    assert len(read(tmp_path, {"segmentation": [[1]], "bbox": [1, 2, 3, 4]}).labels) == 1


def test_without_either_the_box_is_missed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no 'bbox'"):
        read(tmp_path, {"segmentation": []})


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12), st.integers(1, 9), st.integers(1, 9))
def test_any_text_gives_a_box_inside_or_an_error(counts: str, height: int, width: int) -> None:
    try:
        entry = with_box({"segmentation": {"size": [height, width], "counts": counts}}, "here")
    except UserError:
        return
    left, top, box_width, box_height = entry["bbox"]
    assert min(left, top, box_width, box_height) >= 0
    assert left + box_width <= width
    assert top + box_height <= height
    assert entry["area"] <= height * width
