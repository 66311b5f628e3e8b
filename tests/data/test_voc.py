"""Pascal VOC: its way of counting pixels, difficult objects, classes over all splits, and what is wrong in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolo_lite.data.catalog import check_same_classes, open_split
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import MissingSplitError
from yolo_lite.utils.errors import UserError

HEIGHT, WIDTH = 40, 80
BOX = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
DOG = f"<object><name>dog</name>{BOX}</object>"
CAT = DOG.replace("dog", "cat")


def annotation(objects: str, more: str = "") -> str:
    return f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{more}{objects}</annotation>"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def add_image(root: Path, stem: str, objects: str, suffix: str = ".png", more: str = "") -> None:
    (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "JPEGImages" / f"{stem}{suffix}")
    write(root / "Annotations" / f"{stem}.xml", annotation(objects, more))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images and one for validation."""
    folder = tmp_path / "set"
    add_image(folder, "b", DOG)
    add_image(folder, "a", DOG + CAT)
    add_image(folder, "c", CAT.replace("cat", "ant"))
    write(folder / "ImageSets" / "Main" / "train.txt", "b\na\n")
    write(folder / "ImageSets" / "Main" / "val.txt", "c\n")
    return folder


def change(root: Path, text: str) -> None:
    write(root / "Annotations" / "b.xml", text)


def message(root: Path) -> str:
    with pytest.raises(UserError) as error:
        open_split(root, "train")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def names(index: DetectionIndex) -> list[str]:
    return [index.file_names[i] for i in range(len(index))]


def test_a_list_names_the_whole_line_that_it_does_not_know(root: Path) -> None:
    write(root / "ImageSets" / "Main" / "train.txt", "b  1\na -1\ntrain 0.jpg\n")
    assert "train.txt:3: no Annotations/train 0.jpg.xml" in message(root)
    write(root / "ImageSets" / "Main" / "train.txt", "b\t1\na  -1\n")
    assert names(open_split(root, "train")) == ["a.png", "b.png"]


def test_the_same_arrays_as_from_coco(tiny_coco: Callable[..., Path], as_voc: Callable[[Path], Path]) -> None:
    coco = tiny_coco(num_train=6, num_val=3, num_classes=3, boxes_per_image=2, empty_images=[1])
    voc = as_voc(coco)
    for split in ("train", "val"):
        a, b = open_split(coco, split), open_split(voc, split)  # type: ignore[arg-type]
        assert names(a) == names(b)
        assert a.class_names == b.class_names
        assert b.category_ids == [0, 1, 2]
        assert b.image_ids.tolist() == list(range(1, len(a) + 1))
        for name in ("sizes", "offsets", "labels", "areas", "boxes_xywh", "is_crowd", "is_trainable"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
    check_same_classes(open_split(voc, "train"), open_split(voc, "val"))


def test_pixels_are_counted_from_one_and_the_last_belongs_to_the_box(root: Path) -> None:
    """A box over the whole image is 1, 1, width, height in VOC."""
    whole = DOG.replace(BOX, f"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{WIDTH}</xmax><ymax>{HEIGHT}</ymax></bndbox>")
    one = DOG.replace(BOX, "<bndbox><ymax>5</ymax><xmax>3</xmax><xmin>3</xmin><ymin>5</ymin></bndbox>")
    change(root, annotation(whole + one + DOG))
    index = open_split(root, "train")
    boxes = index.boxes_xywh[index.rows(1)].tolist()
    assert boxes == [[0, 0, WIDTH, HEIGHT], [2, 4, 1, 1], [10, 20, 20, 20]]
    assert index.areas[index.rows(1)].tolist() == [WIDTH * HEIGHT, 1, 400]


def test_boxes_that_begin_at_zero_are_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(root, annotation(DOG.replace("<xmin>11</xmin>", "<xmin>0</xmin>")))
    with caplog.at_level(logging.WARNING):
        open_split(root, "train")
    assert "1 boxes begin at pixel 0; VOC counts from 1" in caplog.text


def test_images_and_classes(root: Path) -> None:
    index = open_split(root, "train")
    assert names(index) == ["a.png", "b.png"]
    assert index.image_ids.tolist() == [1, 2]
    assert index.class_names == ["ant", "cat", "dog"], "of all splits"
    assert index.labels.tolist() == [2, 1, 2]
    assert open_split(root, "val").labels.tolist() == [0]


@pytest.mark.parametrize("name", ["classes.txt", "labels.txt"])
def test_a_list_of_classes_decides(root: Path, name: str) -> None:
    write(root / name, "dog\nhot dog\n\ncat\nant\n")
    index = open_split(root, "train")
    assert index.class_names == ["dog", "hot dog", "cat", "ant"]
    assert index.labels.tolist() == [0, 2, 0]
    write(root / name, "dog\nant\n")
    assert "a.xml: class 'cat'" in message(root)
    write(root / name, "dog\ncat\ndog\n")
    assert "'dog' twice" in message(root)
    write(root / name, "\n")
    assert f"{name} is empty" in message(root)


def test_difficult_objects_are_kept_and_not_trained_on(root: Path) -> None:
    difficult = "<object><name>dog</name><difficult>{}</difficult>" + BOX + "</object>"
    values = ["0", "1", "", "Unspecified"]
    change(root, annotation("".join(difficult.format(value) for value in values)))
    index = open_split(root, "train")
    assert index.is_crowd[index.rows(1)].tolist() == [False, True, False, False]
    assert index.is_trainable[index.rows(1)].tolist() == [True, False, True, True]


def test_parts_are_no_objects(root: Path) -> None:
    part = f"<part><name>head</name>{BOX.replace('11', '12')}</part>"
    change(root, annotation(f"<object><name>dog</name>{part}{BOX}{part}</object>"))
    index = open_split(root, "train")
    assert index.class_names == ["ant", "cat", "dog"]
    assert index.boxes_xywh[index.rows(1)].tolist() == [[10, 20, 20, 20]]


def test_trainval_is_the_training_split_where_there_is_no_other(root: Path) -> None:
    lists = root / "ImageSets" / "Main"
    write(lists / "trainval.txt", "a\nb\nc\n")
    assert len(open_split(root, "train")) == 2
    (lists / "train.txt").unlink()
    assert len(open_split(root, "train")) == 3


@pytest.mark.parametrize("nested", ["VOC2007", "VOCdevkit/VOC2012"])
def test_folders_of_the_archives(root: Path, nested: str) -> None:
    outer = root.parent / "outer"
    (outer / nested).parent.mkdir(parents=True)
    root.rename(outer / nested)
    assert len(open_split(outer, "train")) == 2


def test_two_years_are_not_guessed(root: Path) -> None:
    outer = root.parent / "VOCdevkit"
    for year in ("VOC2007", "VOC2012"):
        write(outer / "VOCdevkit" / year / "ImageSets" / "Main" / "train.txt", "a\n")
    text = message(outer)
    assert "VOC2007" in text
    assert "VOC2012" in text


def test_images_and_xml_in_one_folder_for_each_split(root: Path) -> None:
    """Roboflow's VOC."""
    other = root.parent / "roboflow"
    for folder, stems in (("train", "ab"), ("valid", "c")):
        for stem in stems:
            (other / folder).mkdir(parents=True, exist_ok=True)
            (root / "JPEGImages" / f"{stem}.png").rename(other / folder / f"{stem}.png")
            (root / "Annotations" / f"{stem}.xml").rename(other / folder / f"{stem}.xml")
    train, val = open_split(other, "train"), open_split(other, "val")
    assert names(train) == ["a.png", "b.png"]
    assert train.class_names == val.class_names == ["ant", "cat", "dog"]


def test_lists_with_spaces_second_columns_and_repetitions(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_image(root, "my dog 1", DOG)
    write(root / "ImageSets" / "Main" / "train.txt", "a  1\r\nb -1\r\n\r\nmy dog 1\r\na\r\n")
    with caplog.at_level(logging.WARNING):
        assert names(open_split(root, "train")) == ["a.png", "b.png", "my dog 1.png"]
    assert "1 images are listed twice" in caplog.text


def test_the_name_of_the_xml_file_decides_which_image_is_meant(root: Path) -> None:
    """<filename> is often copied from another image."""
    add_image(root, "b", DOG, suffix=".JPG", more="<filename>a.png</filename>")
    (root / "JPEGImages" / "b.png").unlink()
    assert names(open_split(root, "train")) == ["a.png", "b.JPG"]
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "JPEGImages" / "b.bmp")
    add_image(root, "b", DOG, suffix=".bmp", more="<filename>b.bmp</filename>")
    assert names(open_split(root, "train")) == ["a.png", "b.bmp"]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>", "<size/>"])
def test_files_without_size(root: Path, size: str, caplog: pytest.LogCaptureFixture) -> None:
    change(root, f"<annotation>{size}{DOG}</annotation>")
    with caplog.at_level(logging.WARNING):
        index = open_split(root, "train")
    assert index.sizes[1].tolist() == [HEIGHT, WIDTH]
    assert index.is_trainable.all()
    assert not caplog.records


def test_a_missing_image_is_told_as_with_coco(root: Path) -> None:
    (root / "JPEGImages" / "b.png").unlink()
    assert "b.jpg (missing)" in message(root)


def test_faults_of_other_splits_are_told_when_they_are_read(root: Path) -> None:
    write(root / "Annotations" / "c.xml", "<annotation>")
    assert open_split(root, "train").class_names == ["cat", "dog"]
    with pytest.raises(UserError, match=r"c\.xml"):
        open_split(root, "val")
    write(root / "ImageSets" / "Main" / "test.txt", "nowhere\n")
    assert len(open_split(root, "train")) == 2


def test_other_encodings_and_namespaces(root: Path) -> None:
    head = '<?xml version="1.0" encoding="ISO-8859-1"?>'
    path = root / "Annotations" / "b.xml"
    path.write_bytes((head + annotation(DOG.replace("dog", "Käfer"))).encode("latin-1"))
    assert "Käfer" in open_split(root, "train").class_names


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY l0 "ha">'
    + "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(30))
    + "]>"
    + annotation("&l30;")
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ["not valid XML"]),
        ("<annotation>", ["not valid XML"]),
        ("not xml", ["not valid XML"]),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', ["not valid XML"]),
        ('<?xml version="1.0" encoding="gbk"?><annotation/>', ["not valid XML", "UTF-8"]),
        (LAUGHS, ["DOCTYPE"]),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', ["DOCTYPE"]),
        ("<a/>", ["<a>", "<annotation>"]),
        (annotation("<object/>"), ["object 1 has no <name>"]),
        (annotation(DOG + "<object><name> </name></object>"), ["object 2 has no <name>"]),
        (annotation("<object><name>dog</name></object>"), ["object 1 ('dog') has no <bndbox>"]),
        (annotation(DOG.replace("<xmin>11</xmin>", "")), ["object 1 has no <xmin>"]),
        (annotation(DOG.replace("11", "")), ["xmin is ''"]),
        (annotation(DOG.replace("11", "x")), ["xmin is 'x'"]),
        (annotation(DOG.replace("11", "nan")), ["xmin is 'nan'"]),
        (annotation(DOG.replace("11", "1e9")), ["xmin is '1e9'"]),
        (annotation(DOG.replace("11", "1_1")), ["xmin is '1_1'"]),
        (annotation(DOG.replace("</name>", "</name><difficult>2</difficult>")), ["difficult is '2'"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_wrong_with_a_file(root: Path, text: str, named: list[str]) -> None:
    change(root, text)
    assert all(part in message(root) for part in ["b.xml", *named])


def test_what_is_deeply_nested_is_read_or_refused(root: Path) -> None:
    change(root, "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + DOG + "</annotation>")
    assert len(open_split(root, "train").labels) == 3


def test_what_is_wrong_with_the_lists(root: Path) -> None:
    train = root / "ImageSets" / "Main" / "train.txt"
    write(train, "a\nnone here\n")
    assert f"{train}:2: no" in message(root)
    write(train, "a\n" + "x" * 5000)
    assert f"{train}:2: no" in message(root)
    write(train, "\n")
    assert "lists no images" in message(root)
    train.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in message(root)
    (root / "JPEGImages").rename(root / "images")
    assert "no image folder" in message(root)


def test_no_objects_anywhere(root: Path) -> None:
    for path in (root / "Annotations").iterdir():
        write(path, annotation(""))
    assert "nothing to learn" in message(root)


def test_a_split_that_is_not_there_is_told_apart(root: Path) -> None:
    with pytest.raises(MissingSplitError, match=r"ImageSets/Main/test\.txt"):
        open_split(root, "test")
