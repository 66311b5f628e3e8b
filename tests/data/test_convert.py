"""Any format to COCO JSON and back: the same index, images referenced, linked or copied, nothing overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from yolo_lite.data.catalog import open_split
from yolo_lite.data.convert import convert, main
from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.errors import UserError

ARRAYS = ("image_ids", "sizes", "offsets", "boxes_xywh", "labels", "areas", "is_crowd", "is_trainable")


def assert_same(a: DetectionIndex, b: DetectionIndex) -> None:
    assert (a.class_names, a.category_ids) == (b.class_names, b.category_ids)
    for name in ARRAYS:
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for i in range(len(a)):
        assert a.path(i).read_bytes() == b.path(i).read_bytes()


@pytest.mark.parametrize("images", ["reference", "link", "copy"])
@pytest.mark.parametrize("format_", ["coco", "yolo", "voc"])
def test_round_trip(
    tiny_coco: Callable[..., Path],
    as_yolo: Callable[[Path], Path],
    as_voc: Callable[[Path], Path],
    tmp_path: Path,
    format_: str,
    images: str,
) -> None:
    ids = [1, 2, 3] if format_ == "yolo" else [90, 13, 44]
    root = tiny_coco(num_train=5, num_val=2, num_classes=3, boxes_per_image=2, empty_images=[1], category_ids=ids)
    root = {"coco": lambda r: r, "yolo": as_yolo, "voc": as_voc}[format_](root)
    out = tmp_path / "new" / "out"
    assert convert(root, out, images) == ["train", "val"]  # type: ignore[arg-type]
    assert sorted(path.name for path in (out / "annotations").iterdir()) == ["train.json", "val.json"]
    for split in ("train", "val"):
        assert_same(open_split(root, split), open_split(out, split))  # type: ignore[arg-type]
    found = [path for path in (out / "images").rglob("*.png")] if images != "reference" else []
    assert len(found) == (0 if images == "reference" else 7)
    assert all(path.is_symlink() == (images == "link") for path in found)
    assert [path.name for path in out.parent.iterdir()] == ["out"], "a scratch folder was left"


def test_boxes_survive_to_the_last_bit(data_root: Callable[[str], Path], tmp_path: Path) -> None:
    root = data_root("coco128")
    convert(root, tmp_path / "out")
    for split in ("train", "val"):
        assert_same(open_split(root, split), open_split(tmp_path / "out", split))  # type: ignore[arg-type]


def test_crowds_and_names_outside_of_the_folder(tiny_coco: Callable[..., Path], tmp_path: Path) -> None:
    root = tiny_coco(num_train=2, num_val=1)
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    (root / "images" / "train" / "train_000.png").rename(root / "elsewhere.png")
    content["images"][0]["file_name"] = "../../elsewhere.png"
    path.write_text(json.dumps(content))
    convert(root, tmp_path / "out", "copy")
    assert_same(open_split(root, "train"), open_split(tmp_path / "out", "train"))
    assert sorted(p.name for p in (tmp_path / "out" / "images" / "train").iterdir()) == ["100.png", "train_001.png"]


def test_nothing_is_overwritten(tiny_coco: Callable[..., Path], tmp_path: Path) -> None:
    root = tiny_coco(num_train=2, num_val=1)
    out = tmp_path / "out"
    out.mkdir()
    convert(root, out)  # an empty folder is as good as none
    before = (out / "annotations" / "train.json").read_bytes()
    for target in (out, root):
        with pytest.raises(UserError, match=r"exists already.*--out"):
            convert(root, target)
    assert (out / "annotations" / "train.json").read_bytes() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        convert(root, tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        convert(root, tmp_path / "file" / "out")


def test_an_error_leaves_nothing(tiny_coco: Callable[..., Path], tmp_path: Path) -> None:
    root = tiny_coco(num_train=2, num_val=1)
    (root / "annotations" / "val.json").write_text("{")
    with pytest.raises(UserError, match=r"val\.json is not valid JSON"):
        convert(root, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_no_split_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train annotations"):
        convert(tmp_path, tmp_path / "out")


def test_command(
    tiny_coco: Callable[..., Path], as_yolo: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = as_yolo(tiny_coco(num_train=3, num_val=1))
    arguments = ["--data.root", str(root / "data.yaml"), "--out", str(tmp_path / "out"), "--link"]
    assert main(arguments) == 0
    assert "train.json: 3 images, 3 boxes" in capsys.readouterr().out
    assert len(open_split(tmp_path / "out", "val")) == 1
    for wrong in (arguments, [*arguments, "--copy-images"], ["--out", "x"], [*arguments, "--nonsense"]):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
