"""COCO files: categories, boxes outside their image, and one line of explanation for everything that is wrong."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_lite.data.coco import read_coco
from yolo_lite.data.index import DetectionIndex, PackedStrings
from yolo_lite.data.json_stream import CHUNK_BYTES
from yolo_lite.utils.errors import UserError

GOOD: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": 100, "width": 200},
        {"id": 3, "file_name": "b.jpg", "height": 50, "width": 60},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 2, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0.5, 0.5, 30, 40]},
        {"id": 3, "image_id": 3, "category_id": 5, "bbox": [5, 5, 20, 20], "iscrowd": 1},
    ],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
}


chunk_bytes = CHUNK_BYTES


@pytest.fixture(autouse=True, params=[CHUNK_BYTES, 7], ids=["at once", "in pieces"])
def in_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is read as a whole and in pieces that end inside of everything."""
    monkeypatch.setitem(globals(), "chunk_bytes", request.param)


def read(tmp_path: Path, content: Any) -> DetectionIndex:
    path = tmp_path / "train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_coco(path, tmp_path, chunk_bytes)


def test_the_root_category_of_roboflow_is_no_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = copy.deepcopy(GOOD)
    content["categories"] = [
        {"id": 0, "name": "dog", "supercategory": "none"},  # the project, which may have the name of a class
        {"id": 2, "name": "cat", "supercategory": "dog"},
        {"id": 5, "name": "dog", "supercategory": "dog"},
    ]
    monkeypatch.setattr(logging.getLogger("yolo_lite"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        index = read(tmp_path, content)
    assert index.class_names == ["cat", "dog"]
    assert len([r for r in caplog.records if "groups the other categories" in r.message]) == 1


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 2, "name": "cat", "supercategory": "none"}, {"id": 5, "name": "dog", "supercategory": "none"}],
        [{"id": 2, "name": "cat", "supercategory": "none"}, {"id": 5, "name": "dog", "supercategory": "cat"}],
        [{"id": 2, "name": "cat", "supercategory": "animal"}, {"id": 5, "name": "dog", "supercategory": "animal"}],
    ],
    ids=["no parents", "a parent with objects", "parents that are not listed"],
)
def test_other_categories_stay(tmp_path: Path, categories: list[dict[str, Any]]) -> None:
    assert read(tmp_path, {**GOOD, "categories": categories}).class_names == ["cat", "dog"]


def test_index_of_a_good_file(tmp_path: Path) -> None:
    index = read(tmp_path, GOOD)
    assert len(index) == 2
    assert index.class_names == ["cat", "dog"]
    assert index.category_ids == [2, 5]
    assert index.image_ids.tolist() == [7, 3]
    assert index.sizes.tolist() == [[100, 200], [50, 60]]
    assert index.offsets.tolist() == [0, 1, 3]
    assert index.boxes_xywh.tolist() == [[0.5, 0.5, 30, 40], [1, 2, 10, 20], [5, 5, 20, 20]]
    assert index.labels.tolist() == [1, 0, 1]
    assert index.areas.tolist() == [1200, 150, 400]  # the file's, else the box's
    assert index.is_crowd.tolist() == [False, False, True]
    boxes, labels = index.training_boxes(1)  # without the crowd
    assert boxes.tolist() == [[1, 2, 11, 22]]
    assert labels.tolist() == [0]
    assert index.path(1) == tmp_path / "b.jpg"


@pytest.mark.parametrize("ids", [[1, 2, 3], [0, 1, 2], [90, 13, 44], [3, 1, 2], [1000000, 0, 7]])
def test_category_ids_become_indices_in_their_order(tiny_coco: Callable[..., Path], ids: list[int]) -> None:
    root = tiny_coco(num_train=6, num_classes=3, category_ids=ids)
    index = read_coco(root / "annotations" / "train.json", root / "images" / "train", chunk_bytes)
    assert index.category_ids == sorted(ids)
    assert index.class_names == [f"class{ids.index(i)}" for i in sorted(ids)]
    for i in range(6):  # image i holds class i % 3
        (label,) = index.labels[index.rows(i)]
        assert index.class_names[label] == f"class{i % 3}"
        assert index.category_ids[label] == ids[i % 3]


def test_categories_without_objects_count(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["categories"].append({"id": 3, "name": "bird"})
    index = read(tmp_path, content)
    assert index.class_names == ["cat", "bird", "dog"]
    assert index.labels.tolist() == [2, 0, 2]


def test_file_without_annotations(tmp_path: Path) -> None:
    index = read(tmp_path, {**GOOD, "annotations": []})
    assert index.offsets.tolist() == [0, 0, 0]
    boxes, labels = index.training_boxes(0)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


def test_boxes_outside_are_counted_once_clipped_for_training_and_kept_for_scoring(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = [
        [10, 10, 20, 20],  # inside
        [-3, 5, 20, 20],  # clipped on the left
        [190, 90, 30, 30],  # clipped on the right and below
        [170, 70, 30.2, 30.3],  # a hair outside: clipped without a word
        [10, 10, 20, 0],  # no height
        [10, 10, -5, 20],  # negative width
        [300, 10, 20, 20],  # outside
        [-25, 10, 25.5, 20],  # half a pixel is visible
    ]
    annotations = [{"image_id": 7, "category_id": 2, "bbox": box} for box in boxes]
    with caplog.at_level(logging.WARNING):
        index = read(tmp_path, {**GOOD, "annotations": annotations})
    (record,) = caplog.records
    assert "2 boxes reach outside their image" in record.getMessage()
    assert "4 are empty or outside" in record.getMessage()
    assert index.boxes_xywh[index.rows(0)].tolist() == np.array(boxes, dtype=np.float32).tolist()
    kept, labels = index.training_boxes(0)
    assert kept.tolist() == [[10, 10, 30, 30], [0, 5, 17, 25], [190, 90, 200, 100], [170, 70, 200, 100]]
    assert labels.tolist() == [0] * 4


def test_no_warning_for_good_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, GOOD)
    assert not caplog.records


def broken(*path: Any, value: Any = None, drop: bool = False) -> dict[str, Any]:
    """The good file with one place changed or removed."""
    content = copy.deepcopy(GOOD)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", ["not valid JSON"]),
        ("{", ["not valid JSON"]),
        ("<html>\n</html>", ["not valid JSON"]),
        ("[" * 100_000, ["nested too deeply"]),
        ("[]", ["top level is a list"]),
        ("3", ["top level is a int"]),
        ("null", ["top level"]),
        ("{}", ["categories", "found nothing"]),
        ({"shapes": []}, ["categories", "'shapes'"]),
        (broken("images", drop=True), ["'images'"]),
        (broken("annotations", drop=True), ["'annotations'"]),
        (broken("categories", drop=True), ["'categories'"]),
        (broken("images", value={}), ["'images' is a dict"]),
        (broken("images", value=[]), ["no images"]),
        (broken("categories", value=[]), ["'categories' is empty"]),
        (broken("annotations", value=None), ["'annotations' is a NoneType"]),
        (broken("annotations", 1, value="x"), ["annotations[1] is a str"]),
        (broken("images", 1, value=[]), ["images[1] is a list"]),
        (broken("images", 1, "id", drop=True), ["images[1]", "'id'"]),
        (broken("images", 1, "id", value="three"), ["images[1]", "'three'"]),
        (broken("images", 1, "id", value=True), ["images[1]", "True"]),
        (broken("images", 1, "id", value=2**63), ["images[1]", "not an integer"]),
        (broken("images", 1, "id", value=7), ["images[1]", "7", "images[0]"]),
        (broken("images", 0, "file_name", value=4), ["images[0]", "file_name"]),
        (broken("images", 0, "file_name", value=""), ["images[0]", "file_name"]),
        (broken("images", 0, "width", value=0), ["images[0]", "width"]),
        (broken("images", 0, "width", value="200"), ["images[0]", "width"]),
        (broken("images", 0, "height", drop=True), ["images[0]", "height"]),
        (broken("images", 0, "height", value=float("nan")), ["images[0]", "height"]),
        (broken("images", 0, "height", value=10**400), ["images[0]", "height"]),
        (broken("categories", 0, "name", value=None), ["categories[0]", "name"]),
        (broken("categories", 0, "id", value=1.5), ["categories[0]", "1.5"]),
        (broken("categories", 0, "id", value=2), ["two categories", "2"]),
        (broken("categories", 0, "name", value="cat"), ["two categories", "'cat'"]),
        (broken("annotations", 2, "image_id", value=99), ["annotations[2]", "image_id 99"]),
        (broken("annotations", 2, "image_id", value=None), ["annotations[2]", "image_id"]),
        (broken("annotations", 2, "category_id", value=0), ["annotations[2]", "category_id 0"]),
        (broken("annotations", 2, "category_id", drop=True), ["annotations[2]", "category_id"]),
        (broken("annotations", 2, "bbox", drop=True), ["annotations[2]", "bbox"]),
        (broken("annotations", 2, "bbox", value=[1, 2, 3]), ["annotations[2]", "bbox"]),
        (broken("annotations", 2, "bbox", value="1 2 3 4"), ["annotations[2]", "bbox"]),
        (broken("annotations", 2, "bbox", value=[1, 2, "3", 4]), ["annotations[2]", "bbox"]),
        (broken("annotations", 2, "bbox", value=[1, 2, None, 4]), ["annotations[2]", "bbox"]),
        (broken("annotations", 2, "bbox", value=[1, 2, True, 4]), ["annotations[2]", "bbox"]),
        (broken("annotations", 2, "bbox", value=[float("nan"), 2, 3, 4]), ["annotations[2]", "bbox", "finite"]),
        (broken("annotations", 2, "bbox", value=[1, 2, float("inf"), 4]), ["annotations[2]", "bbox", "finite"]),
        (broken("annotations", 2, "bbox", value=[1, 2, 1e30, 4]), ["annotations[2]", "bbox"]),
        (broken("annotations", 2, "bbox", value=[1, 2, 10**400, 4]), ["annotations[2]", "bbox"]),
        (broken("annotations", 2, "area", value="big"), ["annotations[2]", "area"]),
        (broken("annotations", 2, "area", value=float("nan")), ["annotations[2]", "area"]),
        (broken("annotations", 2, "area", value=10**400), ["annotations[2]", "area"]),
        (broken("annotations", 2, "area", value=1e300), ["annotations[2]", "area"]),
        (broken("annotations", 2, "iscrowd", value="0"), ["annotations[2]", "iscrowd"]),
        (broken("images", 0, "file_name", value="\ud800.jpg"), ["images[0]", "file_name"]),
    ],
    ids=lambda value: "-".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content: Any, named: list[str]) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, content)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    for text in ["train.json", *named]:
        assert text in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no annotation file .*none\.json"):
        read_coco(tmp_path / "none.json", tmp_path, chunk_bytes)
    with pytest.raises(UserError, match="cannot read"):
        read_coco(tmp_path, tmp_path, chunk_bytes)
    (tmp_path / "latin.json").write_bytes(b'{"images": "\xe9\xff"}')
    with pytest.raises(UserError, match="not valid JSON"):
        read_coco(tmp_path / "latin.json", tmp_path, chunk_bytes)


@pytest.mark.parametrize("keys", itertools.permutations(GOOD))
def test_the_lists_come_in_any_order(tmp_path: Path, keys: tuple[str, ...]) -> None:
    others = {"info": {"version": 1.5}, "licenses": [{"id": 1}, 2], "empty": [], "number": -12.5e3, "nothing": None}
    content = {**dict.fromkeys(others), **{key: GOOD[key] for key in keys}, **others}
    index, expected = read(tmp_path, content), read(tmp_path, GOOD)
    assert index.labels.tolist() == expected.labels.tolist()
    assert index.boxes_xywh.tolist() == expected.boxes_xywh.tolist()
    assert [index.file_names[i] for i in range(2)] == ["a.jpg", "b.jpg"]


def test_of_two_lists_of_one_name_the_last_counts(tmp_path: Path) -> None:
    text = json.dumps(GOOD)
    index = read(tmp_path, '{"images": [{"id": 1, "file_name": "c.jpg", "height": 9, "width": 9}], ' + text[1:])
    assert index.image_ids.tolist() == [7, 3]


def test_many_ids_out_of_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(5000)[:400] * 10**12 - 10**15
    owner, category = rng.integers(400, size=3000), rng.integers(7, size=3000)
    content = {
        "images": [{"id": int(i), "file_name": f"{i}.jpg", "height": 5000, "width": 5000} for i in ids],
        "annotations": [
            {"image_id": int(ids[o]), "category_id": int(100 - c), "bbox": [k, 1, 2, 3]}
            for k, (o, c) in enumerate(zip(owner, category, strict=True))
        ],
        "categories": [{"id": 100 - c, "name": f"class{c}"} for c in range(7)],
    }
    index = read(tmp_path, content)
    for i in range(0, 400, 7):
        assert index.image_ids[i] == ids[i]
        assert index.file_names[i] == f"{ids[i]}.jpg"
        assert index.boxes_xywh[index.rows(i), 0].tolist() == np.flatnonzero(owner == i).tolist()
        names = [index.class_names[k] for k in index.labels[index.rows(i)]]
        assert names == [f"class{c}" for c in category[owner == i]]


def test_progress_of_a_long_file_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolo_lite.utils.progress.INTERVAL", 0.0)
    with caplog.at_level(logging.INFO, logger="yolo_lite"):
        read(tmp_path, GOOD)
    assert re.search(r"reading train.json: \d+ %, 0 annotations", caplog.text)


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(read_coco(tmp_path / "bom.json", tmp_path, chunk_bytes)) == 2


def test_selected_images_keep_their_annotations(tmp_path: Path) -> None:
    index = read(tmp_path, GOOD)
    second = index.select(np.array([1]))
    assert second.image_ids.tolist() == [3]
    assert second.file_names[0] == "b.jpg"
    assert second.boxes_xywh.tolist() == [[1, 2, 10, 20], [5, 5, 20, 20]]
    assert second.rows(0) == slice(0, 2)
    nothing = index.select(np.zeros(0, dtype=np.int64))
    assert len(nothing) == 0
    assert nothing.boxes_xywh.shape == (0, 4)


def test_packed_strings() -> None:
    names = ["a.jpg", "", "żółw/日本.png", "b" * 300]
    packed = PackedStrings(names)
    assert [packed[i] for i in range(len(packed))] == names


def test_coco_with_gaps_in_its_ids(data_root: Callable[[str], Path]) -> None:
    root = data_root("coco128")
    index = read_coco(root / "annotations" / "train.json", root / "images", chunk_bytes)
    assert len(index.class_names) == 80
    assert index.category_ids[0] == 1
    assert index.category_ids[-1] == 90
    assert (np.diff(index.offsets) == 0).sum() >= 2  # empty images
    content = json.loads((root / "annotations" / "train.json").read_text())
    assert len(index.labels) == len(content["annotations"])
    names = {c["id"]: c["name"] for c in content["categories"]}
    position = {int(image_id): i for i, image_id in enumerate(index.image_ids)}
    for a in content["annotations"][::50]:
        rows = index.rows(position[a["image_id"]])
        assert names[a["category_id"]] in [index.class_names[k] for k in index.labels[rows]]


def test_what_exports_leave_empty(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["annotations"][0].update(area=None, iscrowd=None)
    index = read(tmp_path, content)
    assert index.areas.tolist() == [1200, 200, 400]
    assert index.is_crowd.tolist() == [False, False, True]


def test_ids_as_texts_and_floats(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["images"][0]["id"], content["images"][1]["id"] = "7", 3.0
    content["categories"][0]["id"] = "5"
    content["annotations"][0]["image_id"] = "3"
    content["annotations"][1]["category_id"] = 5.0
    index, expected = read(tmp_path, content), read(tmp_path, GOOD)
    for name in ("image_ids", "labels", "offsets", "boxes_xywh"):
        assert np.array_equal(getattr(index, name), getattr(expected, name)), name


@pytest.mark.parametrize("other", [3, "7", 7.0])
def test_two_ways_to_write_one_id_are_not_two_ids(tmp_path: Path, other: Any) -> None:
    content = copy.deepcopy(GOOD)
    content["images"][1]["id"] = other
    if other == 3:
        content["images"][1]["id"] = "03"
    with pytest.raises(UserError, match=r"images\[1\]"):
        read(tmp_path, content)
