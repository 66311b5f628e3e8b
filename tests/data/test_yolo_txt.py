"""YOLO labels: where images and labels are found, what rows mean, and one line for everything that is wrong."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from yolo_lite.data.catalog import check_same_classes, open_split
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import MissingSplitError
from yolo_lite.data.yolo_txt import label_file, parse_labels
from yolo_lite.utils.errors import UserError

HEIGHT, WIDTH = 40, 80


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images and one for validation, of 80x40 pixels, one object each."""
    folder = tmp_path / "set"
    for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
        draw(folder / "images" / split / f"{stem}.png")
        write(folder / "labels" / split / f"{stem}.txt", "1 0.5 0.5 0.25 0.5\n")
    write(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return folder


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def names(index: DetectionIndex) -> list[str]:
    return [Path(index.file_names[i]).name for i in range(len(index))]


def message(root: Path, split: str = "train") -> str:
    with pytest.raises(UserError) as error:
        open_split(root, split)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    return str(error.value)


def test_the_same_arrays_as_from_coco(tiny_coco: Callable[..., Path], as_yolo: Callable[[Path], Path]) -> None:
    coco = tiny_coco(num_train=6, num_val=3, num_classes=3, boxes_per_image=2, empty_images=[1])
    yolo = as_yolo(coco)
    for split in ("train", "val"):
        a, b = open_split(coco, split), open_split(yolo, split)  # type: ignore[arg-type]
        assert names(a) == names(b)
        assert a.class_names == b.class_names
        assert b.category_ids == [0, 1, 2]
        assert b.image_ids.tolist() == list(range(1, len(a) + 1))
        for name in ("sizes", "offsets", "labels", "is_crowd", "is_trainable"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert np.allclose(a.boxes_xywh, b.boxes_xywh, atol=1e-4)
        assert np.allclose(a.areas, b.areas, rtol=1e-4)
        for i in range(len(b)):
            assert b.path(i).is_file()
    check_same_classes(open_split(yolo, "train"), open_split(yolo, "val"))


def test_boxes_in_pixels(root: Path) -> None:
    index = open_split(root, "train")
    assert index.boxes_xywh.tolist() == [[30, 10, 20, 20]] * 2
    assert index.areas.tolist() == [400] * 2
    assert index.labels.tolist() == [1, 1]
    assert index.source == root / "data.yaml"


def test_the_yaml_itself_may_be_the_root(root: Path) -> None:
    (root / "data.yaml").rename(root / "my set.yml")
    assert names(open_split(root / "my set.yml", "train")) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\n",
        "train: ./images/train/\n",
        "train: [images/train]\n",
        "train:\n  - images/train\n",
        "path: .\ntrain: images/train\n",
        "path: images\ntrain: train\n",
        "path: ../set\ntrain: images/train\n",
        "path: ../datasets/another machine\ntrain: images/train\n",
        "path: /content/datasets/nowhere\ntrain: images/train\n",
        "train: ../images/train\n",  # as Roboflow writes it
        "path: ''\ntrain: images/train\n",
        "path: ABSOLUTE\ntrain: images/train\n",
        "train: ABSOLUTE/images/train\n",
        "train: train.txt\n",
        "train: ABSOLUTE/train.txt\n",
        "path: images\ntrain: ../train.txt\n",
    ],
)
@pytest.mark.parametrize("lines", ["./images/train/b.png\n\nimages/train/a.png\r\n", "ABSOLUTE/images/train/{}.png\n"])
def test_ways_to_name_the_images(root: Path, yaml: str, lines: str) -> None:
    if "{}" in lines:
        lines = lines.format("a") + lines.format("b")
    write(root / "train.txt", lines.replace("ABSOLUTE", str(root)))
    write(root / "data.yaml", yaml.replace("ABSOLUTE", str(root)) + "names: [cat, dog]\n")
    index = open_split(root, "train")
    assert names(index) == ["a.png", "b.png"]
    assert len(index.labels) == 2


def test_a_list_relative_to_the_data_set_or_to_itself(root: Path) -> None:
    write(root / "data.yaml", "path: images\ntrain: ../lists/train.txt\nnames: [cat, dog]\n")
    write(root / "lists" / "train.txt", "train/b.png\n")
    assert names(open_split(root, "train")) == ["b.png"]
    write(root / "lists" / "train.txt", "../images/train/a.png\n")
    assert names(open_split(root, "train")) == ["a.png"]


def test_a_test_split_that_is_named_and_not_there_is_missing(root: Path) -> None:
    write(root / "data.yaml", "train: images/train\nval: images/val\ntest: ../test/images\nnames: [cat, dog]\n")
    with pytest.raises(MissingSplitError, match="not there"):
        open_split(root, "test")


def test_several_folders_and_images_named_twice(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "data.yaml", "train: [images/train, images/val, images]\nnames: [cat, dog]\n")
    with caplog.at_level(logging.WARNING):
        index = open_split(root, "train")
    assert names(index) == ["a.png", "b.png", "c.png"]
    assert index.image_ids.tolist() == [1, 2, 3]
    assert "3 images of train are listed twice" in caplog.text


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_names_of_the_validation_split(root: Path, key: str) -> None:
    write(root / "data.yaml", f"train: images/train\n{key}: images/val\nnames: [cat, dog]\n")
    assert names(open_split(root, "val")) == ["c.png"]


def test_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (root / folder).mkdir(exist_ok=True)
            (root / kind / split).rename(root / folder / kind)
    write(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    assert [len(open_split(root, split).labels) for split in ("train", "val")] == [2, 1]  # type: ignore[arg-type]


def test_labels_beside_the_images(root: Path) -> None:
    for path in (root / "labels" / "train").iterdir():
        path.rename(root / "images" / "train" / path.name)
    assert len(open_split(root, "train").labels) == 2


@pytest.mark.parametrize("listed", [False, True])
def test_paths_of_windows(root: Path, listed: bool) -> None:
    write(root / "train.txt", "images\\train\\a.png\nimages\\train\\b.png\n")
    train = "train.txt" if listed else "images\\train"
    write(root / "data.yaml", f"train: {train}\nval: images\\val\nnames: [cat, dog]\n")
    assert open_split(root, "train").labels.tolist() == [1, 1]
    assert names(open_split(root, "val")) == ["c.png"]


def test_each_folder_has_its_labels_where_it_has_them(root: Path) -> None:
    """Two exports in one split: the second has labels beside the images, and one of them a suffix in capitals."""
    for stem, suffix in (("d", ".txt"), ("e", ".TXT")):
        draw(root / "more" / "images" / f"{stem}.png")
        write(root / "more" / "images" / f"{stem}{suffix}", "0 0.5 0.5 0.25 0.5\n")
    (root / "labels" / "train" / "a.txt").rename(root / "labels" / "train" / "a.TXT")
    write(root / "data.yaml", "train: [images/train, more/images]\nval: images/val\nnames: [cat, dog]\n")
    assert open_split(root, "train").labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/images/d/images/x/a.b.jpeg", "/images/d/labels/x/a.b.txt"),
        ("/d/train/images/images.png", "/d/train/labels/images.txt"),
        ("/d/my images/a.jpg", "/d/my images/a.txt"),
    ],
)
def test_the_last_folder_named_images_counts(image: str, label: str) -> None:
    assert label_file(Path(image)) == Path(label)


def test_what_is_no_image_is_passed_by(root: Path) -> None:
    for name in ("._a.png", ".DS_Store", "notes.txt", "Thumbs.db", "labels.cache"):
        write(root / "images" / "train" / name, "x")
    draw(root / "images" / "train" / "deeper" / "D.PNG")
    write(root / "labels" / "train" / "deeper" / "D.txt", "0 0.5 0.5 1 1\n")
    index = open_split(root, "train")
    assert names(index) == ["a.png", "b.png", "D.PNG"]
    assert index.labels.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[cat, dog]", ["cat", "dog"]),
        ("{0: cat, 1: dog}", ["cat", "dog"]),
        ("{1: dog, 0: cat}", ["cat", "dog"]),
        ("\n  0: cat\n  1: dog", ["cat", "dog"]),
        ("\n- traffic light\n- 'żółw 日本'", ["traffic light", "żółw 日本"]),
        ("[no, 1e3]", ["no", "1e3"]),  # a class of Norway stays what it is
        ("[0, 1]", ["0", "1"]),
    ],
)
def test_class_names(root: Path, written: str, expected: list[str]) -> None:
    write(root / "data.yaml", f"train: images/train\nnc: 2\nnames: {written}\n")
    assert open_split(root, "train").class_names == expected


@pytest.mark.parametrize(
    ("yaml", "named"),
    [
        ("", ["names"]),
        ("- a\n- b\n", ["names"]),
        ("train: [images\n", ["not valid YAML"]),
        ("train: images/train\nnames: !!python/object/apply:os.system [ls]\n", ["names", "ls"]),
        ("train: " + "[" * 20_000 + "\n", ["nested too deeply"]),
        ("train: images/train\n", ["names is missing"]),
        ("train: images/train\nnames: cat, dog\n", ["names is 'cat, dog'"]),
        ("train: images/train\nnames: []\n", ["names is a list"]),
        ("train: images/train\nnames: [cat, [dog]]\n", ["names[1] is a list"]),
        ("train: images/train\nnames: [cat, '']\n", ["names[1]", "''"]),
        ("train: images/train\nnames: [cat, cat]\n", ["'cat'"]),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", ["2 entries", "none for 1"]),
        ("train: images/train\nnames: {1: cat, 2: dog}\n", ["none for 0"]),
        ("train: images/train\nnames: {0: cat, 0: dog}\n", ["comes twice"]),
        ("train: images/train\nnames: [cat, dog]\ntrain: images/val\n", ["comes twice"]),
        ("train: images/train\nnames: {[1]: cat}\n", ["not valid YAML"]),
        ("train: images/train\nnc: 3\nnames: [cat, dog]\n", ["nc is '3'", "names has 2"]),
        ("train: images/train\nnc: two\nnames: [cat, dog]\n", ["nc is 'two'"]),
        ("val: images/val\nnames: [cat, dog]\n", ["no 'train'"]),
        ("train:\nnames: [cat, dog]\n", ["no 'train'"]),
        ("train: {a: b}\nnames: [cat, dog]\n", ["train", "folder"]),
        ("train: [[a]]\nnames: [cat, dog]\n", ["train", "folder"]),
        ("path: [a]\ntrain: images/train\nnames: [cat, dog]\n", ["path", "folder"]),
        ("train: nowhere\nnames: [cat, dog]\n", ["'nowhere'", "looked for"]),
        ("train: labels/train\nnames: [cat, dog]\n", ["no images", "labels/train"]),
        ("train: data.yaml\nnames: [cat, dog]\n", ["neither a folder nor a .txt"]),
        ('train: "images\\0train"\nnames: [cat, dog]\n', ["which is not there"]),
        ("train: " + "x" * 5000 + "\nnames: [cat, dog]\n", ["which is not there"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_wrong_with_a_yaml(root: Path, yaml: str, named: list[str]) -> None:
    write(root / "data.yaml", yaml)
    with pytest.raises(UserError) as error:
        open_split(root, "train")
    assert "\n" not in str(error.value)
    assert all(text in str(error.value) for text in ["data.yaml", *named])


def test_key_points_of_no_shape(root: Path) -> None:
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\nkpt_shape: seventeen\n")
    assert "kpt_shape" in message(root)


def test_yaml_that_refers_to_itself_many_times(root: Path) -> None:
    """A text of it would have 9 ** 30 words."""
    levels = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(30))
    write(root / "data.yaml", f"a0: &a0 lol\n{levels}train: images/train\nnames: *a30\n")
    assert "names[0] is a list" in message(root)


def test_a_split_that_is_not_named_is_told_apart(root: Path) -> None:
    with pytest.raises(MissingSplitError, match="'test'"):
        open_split(root, "test")


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("", []),
        ("\n  \n", []),
        ("1 0.5 0.5 0.25 0.5   \r\n", [[1, 30, 10, 20, 20]]),
        ("\ufeff0 0.5 0.5 1 1", [[0, 0, 0, 80, 40]]),
        ("1.000 5e-1 .5 0.25 0.5\n\n\t0\t0.5 0.5 1 1\n", [[1, 30, 10, 20, 20], [0, 0, 0, 80, 40]]),
        ("0 0.25 0.25 0.75 0.25 0.5 0.75\n", [[0, 20, 10, 40, 20]]),  # a triangle
        ("1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5\n", [[1, 20, 10, 40, 20]]),  # a turned box
    ],
)
def test_rows(root: Path, text: str, boxes: list[list[float]]) -> None:
    write(root / "labels" / "train" / "a.txt", text)
    index = open_split(root, "train")
    rows = index.rows(0)
    found = [[label, *box] for label, box in zip(index.labels[rows], index.boxes_xywh[rows].tolist(), strict=True)]
    assert found == boxes


@pytest.mark.parametrize("shape", [(4, 3), (5, 2), (17, 3)])  # 12, 10 and 51 columns
def test_key_points_are_no_polygon(root: Path, shape: tuple[int, int]) -> None:
    write(root / "data.yaml", f"train: images/train\nval: images/val\nnames: [cat, dog]\nkpt_shape: {list(shape)}\n")
    write(root / "labels" / "train" / "a.txt", "1 0.5 0.5 0.25 0.5" + " 0.1" * (shape[0] * shape[1]) + "\n")
    index = open_split(root, "train")
    assert index.boxes_xywh.tolist() == [[30, 10, 20, 20]] * 2


def test_the_area_of_a_polygon(root: Path) -> None:
    write(root / "labels" / "train" / "a.txt", "0 0.25 0.25 0.75 0.25 0.5 0.75\n")
    assert open_split(root, "train").areas[0] == pytest.approx(40 * 20 / 2)


def test_images_without_label_file_have_no_objects(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "labels" / "train" / "a.txt").unlink()
    with caplog.at_level(logging.INFO, "yolo_lite"):
        index = open_split(root, "train")
    assert index.offsets.tolist() == [0, 0, 1]
    assert "1 of 2 train images have no label file" in caplog.text


def test_no_label_at_all_is_a_mistake(root: Path) -> None:
    shutil.rmtree(root / "labels" / "train")
    text = message(root)
    assert "none of the 2 train images" in text
    assert str(root / "labels" / "train" / "a.txt") in text


def test_a_file_name_that_is_not_utf8_is_one_line(root: Path) -> None:
    try:
        os.rename(root / "images" / "train" / "a.png", os.fsencode(root) + b"/images/train/\xff.png")
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    assert "not UTF-8" in message(root)


def test_equal_rows_count_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "labels" / "train" / "a.txt", "1 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n1 0.50 0.5 0.2 0.2\n")
    with caplog.at_level(logging.WARNING):
        index = open_split(root, "train")
    assert index.labels[index.rows(0)].tolist() == [1, 0]
    assert "1 label rows of train repeat another" in caplog.text


def test_boxes_outside_are_counted_and_clipped_for_training(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "labels" / "train" / "a.txt", "0 0.99 0.5 0.1 0.5\n1 0.5 0.5 0 0.5\n0 1.5 0.5 0.1 0.1\n0 .5 .5 -1 1\n")
    with caplog.at_level(logging.WARNING):
        index = open_split(root, "train")
    assert "1 boxes reach outside their image and are clipped, 3 are empty or outside" in caplog.text
    assert index.boxes_xywh[0].tolist() == pytest.approx([75.2, 10, 8, 20], abs=1e-4)
    boxes, _ = index.training_boxes(0)
    assert boxes[:, 2].tolist() == [80]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("0 0.5 0.5 0.5", ["4 columns"]),
        ("0", ["1 columns"]),
        ("0 0.5 0.5 0.5 0.5 0.9", ["6 columns", "score"]),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", ["8 columns"]),
        ("0,0.5,0.5,0.5,0.5", ["1 columns"]),
        ("2 0.5 0.5 0.5 0.5", ["class 2", "0 to 1"]),
        ("-1 0.5 0.5 0.5 0.5", ["class -1"]),
        ("0.5 0.5 0.5 0.5 0.5", ["class 0.5"]),
        ("1e300 0.5 0.5 0.5 0.5", ["class 1e300"]),
        ("dog 0.5 0.5 0.5 0.5", ["'dog'"]),
        ("0 nan 0.5 0.5 0.5", ["'nan'"]),
        ("0 0.5 inf 0.5 0.5", ["'inf'"]),
        ("0 0.5 1e999 0.5 0.5", ["'1e999'"]),
        ("0 0_5 0.5 0.5 0.5", ["'0_5'"]),
        ("1_0 0.5 0.5 0.5 0.5", ["'1_0'"]),
        ("0 0.5, 0.5 0.5 0.5", ["'0.5,'"]),
        ("0 320 0.5 0.5 0.5", ["320", "divide"]),
        ("0 0.5 0.5 0.5 -3", ["-3", "divide"]),
        ("0 0.5 0.5 0.5 \0", ["not a number"]),
        ("0 " + "9" * 5000 + " 0.5 0.5 0.5", ["not a number"]),
    ],
)
def test_what_is_wrong_with_a_row(root: Path, row: str, named: list[str]) -> None:
    write(root / "labels" / "train" / "b.txt", "1 0.5 0.5 0.5 0.5\n\n" + row + "\n0 0.5 0.5 0.5 0.5")
    text = message(root)
    assert all(part in text for part in [f"{Path('labels/train/b.txt')}:3", *named])


def test_label_files_that_cannot_be_read(root: Path) -> None:
    path = root / "labels" / "train" / "b.txt"
    path.write_bytes(b"0 0.5 0.5 0.5 0.5 # caf\xe9\n")
    assert "b.txt is not UTF-8" in message(root)
    path.unlink()
    path.mkdir()
    assert "cannot read" in message(root)


def test_unusable_images_do_not_move_the_others(root: Path) -> None:
    write(root / "images" / "train" / "a.png", "no image")
    write(root / "labels" / "train" / "b.txt", "0 0.5 0.5 0.5 0.5\n")
    assert "1 of 2 images cannot be used" in message(root)
    index = open_split(root, "train", max_bad_images=0.5)
    assert names(index) == ["b.png"]
    assert index.image_ids.tolist() == [2]
    assert index.labels.tolist() == [0]
    assert index.boxes_xywh.tolist() == [[20, 10, 40, 20]]


def test_images_turned_by_exif_have_labels_of_the_upright_one(root: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "train" / "a.png", exif=exif)
    index = open_split(root, "train")
    assert index.sizes[0].tolist() == [WIDTH, HEIGHT]
    assert index.boxes_xywh[0].tolist() == [15, 20, 10, 40]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), *[st.floats(-2, 2, allow_subnormal=False)] * 4).map(tuple),
        max_size=8,
    )
)
def test_rows_come_back(rows: list[tuple[int, float, float, float, float]]) -> None:
    text = "\n".join(" ".join(map(str, row)) for row in rows)
    assert [tuple(row[:5]) for row in parse_labels(text, 10, Path("a.txt"))] == rows
