"""Where splits are looked for, and what is said when they are not there; opening and comparing splits."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from yolo_lite.data.catalog import check_same_classes, open_split
from yolo_lite.data.layouts import find_split, list_images, pick_image_dir
from yolo_lite.utils.errors import UserError

LAYOUTS = ["plain", "official", "roboflow", "flat"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found(tiny_coco: Callable[..., Path], layout: str) -> None:
    root = tiny_coco(num_train=3, num_val=2, layout=layout)
    train, val = open_split(root, "train"), open_split(root, "val")
    assert (len(train), len(val)) == (3, 2)
    assert all(train.path(i).is_file() for i in range(3))
    assert all(val.path(i).is_file() for i in range(2))
    check_same_classes(train, val)


def test_of_two_years_the_one_with_images_is_taken(tiny_coco: Callable[..., Path]) -> None:
    """COCO's annotations of 2014 and 2017 lie in one folder; without images at hand the newer ones are meant."""
    root = tiny_coco(num_train=3, layout="official")
    newer = root / "annotations" / "instances_train2017.json"
    older = root / "annotations" / "instances_train2014.json"
    older.write_bytes(newer.read_bytes())
    assert find_split(root, "train").annotations == newer
    (root / "train2017").rename(root / "train2014")
    assert find_split(root, "train").annotations == older
    assert len(open_split(root, "train")) == 3
    (root / "images").mkdir()
    (root / "train2014").rename(root / "images" / "train2014")
    assert find_split(root, "train").annotations == older


def test_official_layout_with_images_in_a_folder_of_their_own(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=2, layout="official")
    (root / "images").mkdir()
    (root / "train2017").rename(root / "images" / "train2017")
    assert open_split(root, "train").image_dir == root / "images" / "train2017"


def test_all_images_in_one_folder(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=2, num_val=2)
    for path in list((root / "images").glob("*/*.png")):
        path.rename(root / "images" / path.name)
    assert open_split(root, "train").image_dir == root / "images"
    assert open_split(root, "val").image_dir == root / "images"


@pytest.mark.parametrize("name", ["bccd", "coco128", "foda", "raccoon"])
def test_real_data_sets_are_found(data_root: Callable[[str], Path], name: str) -> None:
    root = data_root(name)
    source = find_split(root, "val")
    assert source.annotations == root / "annotations" / "val.json"
    names = [image["file_name"] for image in json.loads(source.annotations.read_text())["images"]]
    assert pick_image_dir(source, names) == root / "images"


def test_explicit_files_win(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=3, num_val=2)
    (root / "elsewhere").mkdir()
    (root / "annotations" / "train.json").rename(root / "elsewhere" / "mine.json")
    (root / "images" / "train").rename(root / "pictures")
    index = open_split(root, "train", Path("elsewhere/mine.json"), Path("pictures"))
    assert index.image_dir == root / "pictures"
    absolute = open_split(root, "train", root / "elsewhere" / "mine.json", root / "pictures")
    assert absolute.source == index.source


@pytest.mark.parametrize(
    ("annotations", "images", "named"),
    [
        ("no.json", None, ["no.json", "--data.train_annotations"]),
        (None, "nowhere", ["nowhere", "--data.train_images"]),
    ],
)
def test_explicit_files_that_are_missing(
    tiny_coco: Callable[..., Path], annotations: str | None, images: str | None, named: list[str]
) -> None:
    root = tiny_coco(num_train=2)
    with pytest.raises(UserError) as error:
        find_split(root, "train", annotations and Path(annotations), images and Path(images))  # type: ignore[arg-type]
    assert all(text in str(error.value) for text in named)


@pytest.mark.parametrize("with_folder", [False, True])
def test_nothing_found_says_where_it_looked(tmp_path: Path, with_folder: bool) -> None:
    if with_folder:
        (tmp_path / "annotations").mkdir()
    with pytest.raises(UserError) as error:
        find_split(tmp_path, "val")
    message = str(error.value)
    assert "\n" not in message
    for text in [
        str(tmp_path),
        "annotations/instances_val*.json",
        "annotations/val.json",
        "val/_annotations.coco.json",
        "valid/_annotations.coco.json",
        "val.json",
        "--data.val_annotations",
    ]:
        assert text in message


def test_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*--data\.root"):
        find_split(tmp_path / "nowhere", "train")


def test_images_that_are_nowhere(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=2)
    (root / "images" / "train").rename(root / "moved")
    with pytest.raises(UserError, match=r"train_000\.png") as error:
        open_split(root, "train")
    assert str(root / "images" / "train") in str(error.value)


def test_splits_with_other_categories_are_refused(tiny_coco: Callable[..., Path]) -> None:
    a = open_split(tiny_coco(num_train=2, num_classes=3, category_ids=[1, 2, 3]), "train")
    b = open_split(tiny_coco(num_train=2, num_classes=3, category_ids=[1, 2, 7]), "train")
    c = open_split(tiny_coco(num_train=2, num_classes=2, category_ids=[1, 2]), "train")
    check_same_classes(a, a)
    with pytest.raises(UserError) as error:
        check_same_classes(a, b)
    assert "only the first has 3 'class2'" in str(error.value)
    assert "only the second has 7 'class2'" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="only the second has none"):
        check_same_classes(a, c)


def test_order_of_categories_is_no_difference(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=2, num_val=2, num_classes=2, category_ids=[4, 2])
    path = root / "annotations" / "val.json"
    content = json.loads(path.read_text())
    content["categories"].reverse()
    path.write_text(json.dumps(content))
    check_same_classes(open_split(root, "train"), open_split(root, "val"))


def spoil(root: Path, count: int) -> None:
    for path in sorted((root / "images" / "train").iterdir())[1 : 1 + count]:
        path.write_text("not an image")


def test_a_few_bad_images_are_left_out_and_named(
    tiny_coco: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = tiny_coco(num_train=10)
    spoil(root, 1)
    with caplog.at_level(logging.WARNING):
        index = open_split(root, "train", max_bad_images=0.1)
    assert len(index) == 9
    assert index.image_ids.tolist() == [100 + 7 * i for i in range(10) if i != 1]
    (record,) = caplog.records
    assert "1 of 10" in record.getMessage()
    assert "train_001.png (not an image)" in record.getMessage()
    for i in range(9):  # image and annotation still belong together: image k of the file holds class k % 2
        (label,) = index.labels[index.rows(i)]
        assert label == int(index.file_names[i][6:9]) % 2


def test_too_many_bad_images_stop_the_run(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=10)
    spoil(root, 7)
    with pytest.raises(UserError) as error:
        open_split(root, "train", max_bad_images=0.5)
    message = str(error.value)
    assert "7 of 10" in message
    assert "and 2 more" in message
    assert "--data.max_bad_images (now 0.5)" in message
    assert "\n" not in message
    assert len(open_split(root, "train", max_bad_images=0.7)) == 3


def test_no_usable_image_is_never_tolerated(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(num_train=3)
    for path in (root / "images" / "train").iterdir():
        path.write_text("")
    with pytest.raises(UserError, match="3 of 3"):
        open_split(root, "train", max_bad_images=1.0)


def test_sizes_are_those_of_the_files(tiny_coco: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    root = tiny_coco(num_train=2, size=(96, 128))
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["images"][1].update(height=128, width=96)
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        index = open_split(root, "train")
    assert index.sizes.tolist() == [[96, 128], [96, 128]]
    assert any("another size" in r.getMessage() and "train_001.png" in r.getMessage() for r in caplog.records)


def test_boxes_are_judged_by_the_size_of_the_file(tiny_coco: Callable[..., Path]) -> None:
    """A box that lies inside the file's image but outside the size that the annotations state is trained on."""
    root = tiny_coco(num_train=1, size=(96, 128))
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["images"][0].update(height=20, width=20)
    content["annotations"][0]["bbox"] = [60, 40, 30, 30]
    path.write_text(json.dumps(content))
    boxes, _ = open_split(root, "train").training_boxes(0)
    assert boxes.tolist() == [[60, 40, 90, 70]]


def test_boxes_outside_the_real_file_are_not_trained_on(tiny_coco: Callable[..., Path]) -> None:
    """The other way round: inside the stated size, outside the file's image."""
    root = tiny_coco(num_train=1, size=(96, 128))
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["images"][0].update(height=400, width=400)
    content["annotations"][0]["bbox"] = [300, 300, 30, 30]
    path.write_text(json.dumps(content))
    boxes, _ = open_split(root, "train").training_boxes(0)
    assert boxes.shape == (0, 4)


def test_coco_wins_over_yolo_and_yolo_over_voc(
    tiny_coco: Callable[..., Path],
    as_yolo: Callable[[Path], Path],
    as_voc: Callable[[Path], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    coco = tiny_coco(num_train=3, num_val=2)
    yolo, voc = as_yolo(coco), as_voc(coco)
    assert find_split(yolo, "train").format == "yolo"
    assert find_split(voc, "train").format == "voc"
    with caplog.at_level(logging.INFO, "yolo_lite"):
        shutil.copytree(voc, yolo, dirs_exist_ok=True)
        assert find_split(yolo, "train").format == "yolo"
        shutil.copytree(coco, yolo, dirs_exist_ok=True)
        assert [find_split(yolo, split).format for split in ("train", "val")] == ["coco"] * 2
    first, second = [record.getMessage() for record in caplog.records]
    assert "data.yaml is read" in first
    assert "the COCO annotations are read" in second


def test_the_format_is_the_same_for_all_splits(tiny_coco: Callable[..., Path], as_yolo: Callable[[Path], Path]) -> None:
    """Categories of COCO and of YOLO have other numbers, even where they have the same names."""
    coco = tiny_coco(num_train=3, num_val=2)
    root = as_yolo(coco)
    (coco / "annotations").rename(root / "annotations")
    (root / "annotations" / "val.json").unlink()
    assert find_split(root, "train").format == "coco"
    with pytest.raises(UserError, match="no val annotations"):
        find_split(root, "val")
    assert find_split(root / "data.yaml", "val").format == "yolo"


@pytest.mark.parametrize("layout", ["labels", "train/labels"])
def test_yolo_labels_without_a_yaml_say_what_to_write(tmp_path: Path, layout: str) -> None:
    (tmp_path / layout).mkdir(parents=True)
    images, val = ("images/train", "images/val") if layout == "labels" else ("train/images", "valid/images")
    (tmp_path / val).mkdir(parents=True)
    with pytest.raises(UserError) as error:
        find_split(tmp_path, "train")
    for text in ["no data.yaml", f"`train: {images}`", f"`val: {val}`", "`names: "]:
        assert text in str(error.value)
    (tmp_path / "coco128.yaml").write_text("names: [a]")
    with pytest.raises(UserError, match=r"--data\.root .*coco128\.yaml"):
        find_split(tmp_path, "train")


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(UserError, match=r"train\.json is neither a data folder nor a data\.yaml"):
        find_split(tmp_path / "train.json", "train")


def test_image_folders_go_with_coco_alone(tiny_coco: Callable[..., Path], as_yolo: Callable[[Path], Path]) -> None:
    root = as_yolo(tiny_coco(num_train=2))
    with pytest.raises(UserError, match=r"--data\.train_images goes with COCO"):
        find_split(root, "train", None, Path("images"))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_names_that_no_file_can_have(tiny_coco: Callable[..., Path], name: str) -> None:
    root = tiny_coco()
    path = root / "annotations" / "train.json"
    data = json.loads(path.read_text())
    for image in data["images"]:
        image["file_name"] = name
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="no image") as caught:
        open_split(root, "train")
    assert len(str(caught.value)) < 1000


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "a.png").touch()
    (here / "link").symlink_to(there)
    (there / "circle").symlink_to(here)
    assert list_images(here) == [here / "link" / "a.png"]
