"""The doctor finds every fault that is planted, only it, and nothing in clean data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolo_lite.data.catalog import open_split
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.doctor import diagnose, main
from yolo_lite.data.fingerprints import fingerprint
from yolo_lite.data.shapes import make_shapes

HEIGHT, WIDTH = 120, 160
COUNT = 6


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 with structure of all sizes: no two look alike."""
    image = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (4, 8, 16, 32):
        grid = rng.random((cells, cells, 3), dtype=np.float32)
        image += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 60
    return np.clip(image, 0, 255).astype(np.uint8)


def make_clean(root: Path, make_coco: Callable[..., Path], seed: int = 0, **options: Any) -> Path:
    """A data set of photographs with two objects each."""
    make_coco(root, num_train=COUNT, num_val=COUNT, boxes_per_image=2, suffix=".jpg", seed=seed, **options)
    rng = np.random.default_rng(seed)
    for path in sorted((root / "images").rglob("*.jpg")):
        height, width = cv2.imread(str(path)).shape[:2]
        assert cv2.imwrite(str(path), photograph(rng, height, width))
    return root


def kinds(root: Path, decode: bool = True) -> set[str]:
    return {finding.kind for finding in diagnose(DetectionDataModule(root), decode).findings}


def image(root: Path, i: int, split: str = "train") -> Path:
    return root / "images" / split / f"{split}_{i:03d}.jpg"


def edit(root: Path, change: Callable[[dict[str, Any]], object], split: str = "train") -> None:
    path = root / "annotations" / f"{split}.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def set_box(box: list[float]) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        def change(data: dict[str, Any]) -> None:
            data["annotations"][2]["bbox"] = box
            data["annotations"][2]["area"] = box[2] * box[3]

        edit(root, change)

    return plant


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(bytes(data))


def lose_a_block(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 300 :])


def damage_png(root: Path) -> None:
    path = image(root, 1).with_suffix(".png")
    cv2.imwrite(str(path), cv2.imread(str(image(root, 1))))
    damage(path)
    edit(root, lambda data: data["images"][1].update(file_name=path.name))


def compress_again(source: Path, target: Path) -> None:
    assert cv2.imwrite(str(target), cv2.imread(str(source)), [cv2.IMWRITE_JPEG_QUALITY, 40])


def relabel(root: Path, split: str, category: int) -> None:
    edit(root, lambda data: [a.update(category_id=category) for a in data["annotations"]], split)


def repeat_box(data: dict[str, Any]) -> None:
    again = dict(data["annotations"][4], id=999)
    again["bbox"] = [x + 0.2 for x in again["bbox"]]
    data["annotations"].append(again)


def add_category(root: Path) -> None:
    for split in ("train", "val"):
        edit(root, lambda data: data["categories"].append({"id": 9, "name": "unicorn"}), split)


def crowd_of_boxes(data: dict[str, Any]) -> None:
    for i in range(121):
        box = [2 + 14 * (i % 11), 2 + 10 * (i // 11), 8, 6]
        entry = {"id": 1000 + i, "image_id": data["images"][0]["id"], "category_id": 1, "iscrowd": 0}
        data["annotations"].append(entry | {"bbox": box, "area": 48})


FAULTS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "missing": (lambda root: image(root, 1).unlink(), {"image-missing"}),
    "truncated": (lambda root: image(root, 1).write_bytes(image(root, 1).read_bytes()[:3000]), {"image-truncated"}),
    "text": (lambda root: image(root, 1).write_text("not found"), {"image-unreadable"}),
    "damaged_jpeg": (lambda root: lose_a_block(image(root, 1)), {"image-damaged"}),
    "damaged_png": (damage_png, {"image-unreadable"}),
    "resized": (lambda root: cv2.imwrite(str(image(root, 1)), np.zeros((80, 90, 3), np.uint8)), {"image-other-size"}),
    "copy": (lambda root: shutil.copy(image(root, 0), image(root, 1)), {"duplicate-exact"}),
    "near_copy": (lambda root: compress_again(image(root, 0), image(root, 1)), {"duplicate-near"}),
    "leak": (lambda root: shutil.copy(image(root, 0), image(root, 1, "val")), {"overlap-exact"}),
    "near_leak": (lambda root: compress_again(image(root, 0), image(root, 1, "val")), {"overlap-near"}),
    "outside": (set_box([WIDTH + 20, 10, 20, 20]), {"box-outside"}),
    "partly_outside": (set_box([WIDTH - 20, 10, 30, 30]), {"box-partly-outside"}),
    "empty": (set_box([20, 20, 0, 10]), {"box-empty", "self-score"}),
    "repeated": (lambda root: edit(root, repeat_box), {"box-duplicate"}),
    "tiny": (set_box([20, 20, 0.4, 10]), {"box-tiny"}),
    "whole": (set_box([0, 0, WIDTH, HEIGHT]), {"box-whole-image"}),
    "renamed_class": (
        lambda root: edit(root, lambda data: data["categories"][0].update(name="other"), "val"),
        {"class-list"},
    ),
    "unknown_class": (
        lambda root: edit(root, lambda data: data["annotations"][3].update(category_id=77), "val"),
        {"annotations"},
    ),
    "class_never_trained": (lambda root: relabel(root, "train", 1), {"class-missing"}),
    "class_never_scored": (lambda root: relabel(root, "val", 1), {"class-unscored"}),
    "unused_class": (add_category, {"class-unused"}),
    "no_json": (lambda root: (root / "annotations" / "val.json").write_text("{"), {"annotations"}),
    "no_val": (lambda root: (root / "annotations" / "val.json").unlink(), {"split-missing"}),
    "nothing_in_an_image": (
        lambda root: edit(root, lambda data: data.update(annotations=data["annotations"][2:])),
        {"no-objects"},
    ),
    "nothing_in_val": (
        lambda root: edit(root, lambda data: data.update(annotations=[]), "val"),
        {"no-boxes", "no-objects", "class-unscored"},
    ),
    "more_than_are_scored": (lambda root: edit(root, crowd_of_boxes), {"self-score"}),
}
ONLY_DECODED = {"damaged_jpeg", "damaged_png", "near_copy", "near_leak"}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, make_coco) -> Path:  # type: ignore[no-untyped-def]
    return make_clean(tmp_path_factory.mktemp("doctor") / "clean", make_coco, size=(HEIGHT, WIDTH))


def test_nothing_in_clean_data(clean: Path) -> None:
    assert kinds(clean) == set()
    assert kinds(clean, decode=False) == set()


@pytest.mark.parametrize("more", ["", "test: ../test/images\n"])
def test_nothing_in_clean_yolo_data(clean: Path, tmp_path: Path, as_yolo: Callable[[Path], Path], more: str) -> None:
    shutil.copytree(clean, tmp_path / "data")
    root = as_yolo(tmp_path / "data")
    with open(root / "data.yaml", "a") as file:
        file.write(more)
    assert kinds(root) == set()
    assert main(["--data.root", str(root)]) == 0


def test_annotations_of_which_none_can_be_read(clean: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(clean, root)
    for split in ("train", "val"):
        (root / "annotations" / f"{split}.json").write_text("{}")
    assert kinds(root) == {"annotations"}


@pytest.mark.parametrize("fault", FAULTS)
def test_finds_a_planted_fault_and_nothing_else(clean: Path, tmp_path: Path, fault: str) -> None:
    root = tmp_path / "sick"
    shutil.copytree(clean, root)
    plant, expected = FAULTS[fault]
    plant(root)
    assert kinds(root) == expected
    assert kinds(root, decode=False) == (set() if fault in ONLY_DECODED else expected)


@given(seed=st.integers(0, 10**6), height=st.integers(96, 200), width=st.integers(96, 260), classes=st.integers(1, 3))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_clean_data_has_no_errors_or_warnings(
    tmp_path_factory: pytest.TempPathFactory,
    make_coco,  # type: ignore[no-untyped-def]
    seed: int,
    height: int,
    width: int,
    classes: int,
) -> None:
    root = tmp_path_factory.mktemp("generated") / "data"
    make_clean(root, make_coco, seed, size=(height, width), num_classes=classes)
    findings = diagnose(DetectionDataModule(root)).findings
    assert [str(f) for f in findings if f.severity != "note"] == []


def test_drawn_shapes_are_healthy(tmp_path: Path) -> None:
    """The embedded data is not made sick by looking like itself."""
    root = make_shapes(tmp_path / "shapes", num_train=60, num_val=30, image_size=96)
    assert [str(f) for f in diagnose(DetectionDataModule(root)).findings if f.severity == "error"] == []


def test_a_finding_names_file_box_and_way_out(clean: Path, tmp_path: Path) -> None:
    root = tmp_path / "sick"
    shutil.copytree(clean, root)
    set_box([WIDTH + 20, 10, 20, 20])(root)
    (finding,) = diagnose(DetectionDataModule(root)).findings
    (example,) = finding.examples
    assert (finding.count, finding.where, finding.severity) == (1, "train", "error")
    assert (example.file, example.image_id, example.box_xywh) == ("train_001.jpg", 107, (180.0, 10.0, 20.0, 20.0))
    assert finding.way_out


def test_exit_codes_and_files(clean: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page, numbers = tmp_path / "page.html", tmp_path / "findings.json"
    files = ["--html", str(page), "--json", str(numbers)]
    assert main(["--data.root", str(clean), *files]) == 0
    assert json.loads(numbers.read_text())["findings"] == []
    root = tmp_path / "sick"
    shutil.copytree(clean, root)
    for plant in ("leak", "text", "tiny"):
        FAULTS[plant][0](root)
    assert main(["--data.root", str(root), *files]) == 1
    said = capfd.readouterr()
    assert said.err.startswith("training would suffer: ")
    assert "val_001.jpg" in said.out
    content = json.loads(numbers.read_text())
    assert {f["kind"] for f in content["findings"]} >= {"overlap-exact", "box-tiny"}
    assert content["splits"]["train"]["classes"] == {"class0": COUNT, "class1": COUNT}
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") >= 2 * COUNT
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|<script|@import", html)  # nothing comes from elsewhere
    assert main(["--data.root", str(tmp_path / "nowhere")]) == 2
    assert main(["--data.root", str(root), "--json", str(tmp_path)]) == 2


def test_names_are_harmless_in_the_page(tmp_path: Path, make_coco) -> None:  # type: ignore[no-untyped-def]
    root = make_clean(tmp_path / "data", make_coco, size=(HEIGHT, WIDTH))
    for split in ("train", "val"):
        edit(root, lambda data: data["categories"][0].update(name="<script>alert(1)</script>[/red]"), split)
    assert main(["--data.root", str(root), "--html", str(tmp_path / "page.html")]) == 0
    assert "<script>" not in (tmp_path / "page.html").read_text()


def test_damage_inside_real_photographs(data_root, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = 0
    paths = sorted((data_root("coco128") / "images").rglob("*.jpg"))[:20]
    for path in paths:
        assert fingerprint(path).problem == ""
        shutil.copy(path, tmp_path / "copy.jpg")
        damage(tmp_path / "copy.jpg")
        found += fingerprint(tmp_path / "copy.jpg").is_damaged
    assert found >= 18  # a stretch of zeros is sometimes a legal picture


@pytest.mark.parametrize(
    ("name", "errors"), [("bccd", {"overlap-near"}), ("raccoon", {"overlap-near"}), ("coco128", {"class-missing"})]
)
def test_real_data(data_root, name: str, errors: set[str]) -> None:  # type: ignore[no-untyped-def]
    findings = diagnose(DetectionDataModule(data_root(name))).findings
    assert {f.kind for f in findings if f.severity == "error"} == errors


def test_before_training_a_few_lines_or_none(
    clean: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    DetectionDataModule(clean).check()
    assert caplog.messages == []
    root = tmp_path / "sick"
    shutil.copytree(clean, root)
    for plant in ("leak", "tiny", "repeated", "unused_class"):
        FAULTS[plant][0](root)
    relabel(root, "val", 1)
    DetectionDataModule(root).check()
    lines = [line for line in caplog.messages if line.startswith("data:")]
    assert len(lines) == 5
    assert "overlap-exact" in lines[0]
    assert "val_001.jpg" in lines[0]
    assert f"python -m yolo_lite.data.doctor --data.root {root}" in lines[-1]


def test_the_fast_form_sees_one_file_in_both_splits_of_any_size(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yolo_lite.data import quick_check

    root = tmp_path / "sick"
    shutil.copytree(clean, root)
    shutil.copy(image(root, 0), image(root, 2, "val"))
    train, val = open_split(root, "train"), open_split(root, "val")
    assert quick_check.shared_files(train, val) == ["val_002.jpg"]
    monkeypatch.setattr(quick_check, "MAX_SIZED_FILES", 1)
    assert quick_check.shared_files(train, val) == []  # of large sets, only files of one name are compared
    assert quick_check.shared_files(train, train) == [train.file_names[i] for i in range(len(train))]


def test_uncompressed_pictures_with_one_lower_edge_are_not_the_same(tiny_coco: Callable[..., Path]) -> None:
    """Files of one length whose last 4 KB are the same black floor; the fast forms must look at the rest too."""
    from yolo_lite.data import quick_check

    root = tiny_coco(num_train=3, num_val=2, suffix=".bmp", size=(96, 128))
    images = sorted((root / "images").rglob("*.bmp"))
    for path in images:
        content = bytearray(path.read_bytes())
        content[54 : 54 + 40 * 128 * 3] = bytes(40 * 128 * 3)  # BMP begins at the bottom
        content[-40 * 128 * 3 :] = bytes(40 * 128 * 3)
        content[54 + 50 * 128 * 3] = images.index(path)
        path.write_bytes(content)
    data = DetectionDataModule(root)
    assert quick_check.shared_files(data.index("train"), data.index("val")) == []
    assert not [f for f in diagnose(data, decode=False).findings if "exact" in f.kind]
    shutil.copy(images[0], images[-1])
    assert quick_check.shared_files(data.index("train"), data.index("val")) == ["val_001.bmp"]
    assert [f.kind for f in diagnose(data, decode=False).findings if "exact" in f.kind] == ["overlap-exact"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data.multi_scale", "0.5"],
        ["--data.rect_validation", "true"],
        ["--data.cache_dir", "x"],
        ["--data.index_cache", "x"],
        ["--json", "same", "--html", "./same"],
    ],
)
def test_nothing_is_taken_and_ignored(
    clean: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--data.root", str(clean), *arguments]) == 2
    assert not list(tmp_path.iterdir())
