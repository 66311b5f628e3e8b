"""The embedded data set: same bytes every time, boxes that fit, nothing overwritten."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from yolo_lite.data.catalog import check_same_classes, open_split
from yolo_lite.data.shapes import (
    CLASSES,
    MAX_OBJECTS,
    SUPERSAMPLE,
    draw_background,
    draw_scene,
    make_shapes,
    measure,
    rasterise,
    shape_contours,
)
from yolo_lite.utils.errors import UserError

COUNTS = {"num_train": 12, "num_val": 5, "image_size": 96}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", **COUNTS)


def test_same_parameters_give_the_same_bytes(shapes: Path, tmp_path: Path) -> None:
    again = make_shapes(tmp_path / "again", **COUNTS)
    assert contents(again) == contents(shapes)
    assert len(contents(shapes)) == 12 + 5 + 3
    other = make_shapes(tmp_path / "other", **COUNTS, seed=1)
    assert contents(other)["images/train_00000.jpg"] != contents(shapes)["images/train_00000.jpg"]


def test_an_image_does_not_depend_on_their_number(shapes: Path, tmp_path: Path) -> None:
    fewer = make_shapes(tmp_path / "fewer", **COUNTS | {"num_train": 3})
    assert contents(fewer)["images/train_00002.jpg"] == contents(shapes)["images/train_00002.jpg"]


def test_splits_differ(shapes: Path) -> None:
    files = contents(shapes)
    assert files["images/train_00000.jpg"] != files["images/val_00000.jpg"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_are_sound(shapes: Path, split: str) -> None:
    data = json.loads((shapes / "annotations" / f"{split}.json").read_text())
    assert [c["name"] for c in data["categories"]] == list(CLASSES)
    assert data["annotations"]
    for entry in data["annotations"]:
        left, top, width, height = entry["bbox"]
        assert left >= 0 and top >= 0 and left + width <= 96 and top + height <= 96
        assert min(width, height) >= 6
        assert 0 < entry["area"] <= width * height
        assert entry["iscrowd"] == 0
    per_image = np.bincount([entry["image_id"] for entry in data["annotations"]])
    assert per_image.max() <= MAX_OBJECTS


def test_catalog_reads_both_splits(shapes: Path) -> None:
    train, val = open_split(shapes, "train"), open_split(shapes, "val")
    assert (len(train), len(val)) == (12, 5)
    assert train.class_names == list(CLASSES)
    assert train.is_trainable.all() and val.is_trainable.all()
    check_same_classes(train, val)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_cover_what_was_drawn(seed: int) -> None:
    """The pixels that differ from the bare background span the union of the boxes, to a pixel."""
    image, shapes = draw_scene(np.random.default_rng(seed), 128)
    background = draw_background(np.random.default_rng(seed), 128)
    changed = np.abs(image.astype(np.float32) - background).max(axis=-1) > 2
    boxes = np.array([shape.box_xywh for shape in shapes])
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    expected = [*boxes[:, :2].min(axis=0), *(boxes[:, :2] + boxes[:, 2:]).max(axis=0)]
    np.testing.assert_allclose(drawn, expected, atol=1.01)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("radius", [6.0, 20.0, 60.0])
def test_box_of_a_shape_is_tight(name: str, radius: float) -> None:
    rng = np.random.default_rng(int(radius))
    for _ in range(10):
        center = rng.uniform(65, 135, 2)
        contours = shape_contours(rng, name, radius, center)
        assert np.linalg.norm(contours[0] - center, axis=1).max() == pytest.approx(radius)
        shape = measure(rasterise(contours, 200), CLASSES.index(name))
        assert shape is not None
        low, high = contours[0].min(axis=0), contours[0].max(axis=0)
        np.testing.assert_allclose(shape.box_xywh, [*low, *(high - low)], atol=2.01 / SUPERSAMPLE)
        if name == "circle":
            assert shape.area == pytest.approx(math.pi * radius**2, rel=0.06)


def test_box_is_that_of_the_part_inside_the_image() -> None:
    """A tip outside the image does not reach into the box: the edge enters the image at y = 20."""
    shape = measure(rasterise([np.array([[-20.0, 10.0], [40.0, 40.0], [40.0, 80.0]])], 100), 2)
    assert shape is not None
    np.testing.assert_allclose(shape.box_xywh, [0, 20, 40, 60], atol=2.01 / SUPERSAMPLE)


def test_empty_images_exist_and_others_have_objects() -> None:
    assert draw_scene(np.random.default_rng(0), 96, is_empty=True)[1] == []
    assert all(draw_scene(np.random.default_rng(seed), 64)[1] for seed in range(40))


def test_second_call_reuses(shapes: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob("*")}
    assert make_shapes(shapes, **COUNTS) == shapes
    assert {path: path.stat().st_mtime_ns for path in shapes.rglob("*")} == before


def test_other_parameters_are_refused(shapes: Path) -> None:
    before = contents(shapes)
    with pytest.raises(UserError, match="num_val 5 instead of 6"):
        make_shapes(shapes, **COUNTS | {"num_val": 6})
    assert contents(shapes) == before


@pytest.mark.parametrize("marker", [None, "{", "[1]", "{}"])
def test_foreign_folder_is_refused_and_untouched(tmp_path: Path, marker: str | None) -> None:
    root = tmp_path / "mine"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "train.json").write_text("{}")
    if marker is not None:
        (root / "annotations" / "shapes.json").write_text(marker)
    before = contents(root)
    with pytest.raises(UserError, match="remove it or choose another folder") as caught:
        make_shapes(root, **COUNTS)
    assert "\n" not in str(caught.value)
    assert contents(root) == before
    assert os.listdir(tmp_path) == ["mine"]


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shapes").write_text("mine")
    with pytest.raises(UserError, match="choose another folder"):
        make_shapes(tmp_path / "shapes", **COUNTS)
    with pytest.raises(UserError, match="cannot write"):
        make_shapes(tmp_path / "shapes" / "below", **COUNTS)
    assert (tmp_path / "shapes").read_text() == "mine"


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    make_shapes(tmp_path / "shapes", **COUNTS)
    assert len(open_split(tmp_path / "shapes", "val")) == 5


def test_useless_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_val >= 1"):
        make_shapes(tmp_path / "shapes", num_val=0)


def test_concurrent_first_use(shapes: Path, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "shapes"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=make_shapes, args=(root,), kwargs=COUNTS) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert contents(root) == contents(shapes)
    assert os.listdir(root.parent) == ["shapes"]  # no scratch folder is left


def test_loser_of_the_rename_uses_the_winner(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process finishes between the check and the rename."""
    root = tmp_path / "shapes"
    rename = os.rename

    def late_rename(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        make_shapes(root, **COUNTS)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late_rename)
    assert make_shapes(root, **COUNTS) == root
    assert contents(root) == contents(shapes)
    assert os.listdir(tmp_path) == ["shapes"]
