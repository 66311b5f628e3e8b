"""Shared fixtures: the real data sets where they are at hand, and a small COCO data set that is drawn on the spot."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

# Threads of two processes that share the cores wait for each other in busy loops: beside another job the tests took
# fifty times as long. Set before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

Layout = Literal["plain", "official", "roboflow", "flat"]

BACKGROUND = 40
# Pure colours: one channel less the largest of the others is zero on every grey, so that they can be measured again.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255))
SPLIT_NAMES: dict[str, tuple[str, str]] = {  # (train, val)
    "plain": ("train", "val"),
    "official": ("train2017", "val2017"),
    "roboflow": ("train", "valid"),
    "flat": ("train", "val"),
}

CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",  # a test picture instead of a camera
]


# A minute or more each: first, or one of two workers would wait for the other at the end.
LONG = ("test_resume.py", "test_distributed.py", "test_kill.py", "test_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what opens a browser, to be run in a process of its own; files that take long come first."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def split_paths(root: Path, layout: Layout, split: Literal["train", "val"]) -> tuple[Path, Path]:
    """Annotation file and image folder of a split."""
    name = SPLIT_NAMES[layout][0 if split == "train" else 1]
    if layout == "plain":
        return root / "annotations" / f"{name}.json", root / "images" / name
    if layout == "official":
        return root / "annotations" / f"instances_{name}.json", root / name
    if layout == "roboflow":
        return root / name / "_annotations.coco.json", root / name
    return root / f"{name}.json", root / name


def make_coco(
    root: Path,
    num_train: int = 8,
    num_val: int = 4,
    size: tuple[int, int] = (96, 128),
    num_classes: int = 2,
    layout: Layout = "plain",
    empty_images: Collection[int] = (),
    category_ids: Sequence[int] | None = None,
    boxes_per_image: int = 1,
    background: Sequence[int] = (),
    suffix: str = ".png",
    seed: int = 0,
) -> Path:
    """Draw a data set of coloured rectangles on grey: class c has `COLOURS[c]`, boxes are exact.

    Args:
        root: where to; created.
        num_train, num_val: images of each split.
        size: height, width.
        num_classes: at most `len(COLOURS)`.
        layout: where files go: `plain` annotations/train.json + images/train, `official` as COCO 2017, `roboflow`,
            `flat` train.json + train/.
        empty_images: positions in each split of images without objects.
        category_ids: the file's ids, one for each class, in the order in which they are written; None: 1, 2, ...
        boxes_per_image: rectangles in the other images, side by side.
        background: grey of image i is `background[i % len]`; empty: always the same.
        suffix: of the image files.
        seed: of the places.

    Returns:
        The root.
    """
    rng = np.random.default_rng(seed)
    ids = list(category_ids) if category_ids is not None else list(range(1, num_classes + 1))
    height, width = size
    for split, count in (("train", num_train), ("val", num_val)):
        annotation_file, image_dir = split_paths(root, layout, split)  # type: ignore[arg-type]
        image_dir.mkdir(parents=True, exist_ok=True)
        annotation_file.parent.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            grey = background[i % len(background)] if background else BACKGROUND
            picture = np.full((height, width, 3), grey, dtype=np.uint8)
            image_id = 100 + 7 * i
            for k in range(0 if i in empty_images else boxes_per_image):
                room = width // boxes_per_image
                w, h = int(rng.integers(room // 3, room - 4)), int(rng.integers(height // 3, height - 4))
                x, y = k * room + int(rng.integers(2, room - w - 1)), int(rng.integers(2, height - h - 1))
                label = (i + k) % num_classes
                picture[y : y + h, x : x + w] = COLOURS[label]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": ids[label],
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                    }
                )
            name = f"{split}_{i:03d}{suffix}"
            assert cv2.imwrite(str(image_dir / name), picture[..., ::-1])
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        categories = [{"id": ids[c], "name": f"class{c}"} for c in range(num_classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        annotation_file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module", autouse=True)
def logging_as_before() -> Iterator[None]:
    """Commands set up the package's logger, which other files' tests should not find so."""
    logger = logging.getLogger("yolo_lite")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture
def tiny_coco(tmp_path: Path) -> Callable[..., Path]:
    """`make_coco` into a new folder: `tiny_coco(num_train=4, layout="roboflow")`."""
    made = 0

    def make(**options: Any) -> Path:
        nonlocal made
        made += 1
        return make_coco(tmp_path / f"coco{made}", **options)

    return make


@pytest.fixture
def with_callback(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Have train.py run with one more callback in this test, before its own."""
    from yolo_lite import cli

    def add(callback: Any) -> None:
        defaults = cli.trainer_defaults
        monkeypatch.setattr(
            cli, "trainer_defaults", lambda: {**defaults(), "callbacks": [callback, *defaults()["callbacks"]]}
        )

    return add


@pytest.fixture(scope="session")
def data_root() -> Callable[[str], Path]:
    """The folder of a real data set by name; the test is skipped where it is not at hand."""
    root = Path(os.environ.get("YOLO_LITE_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no data set {name} in {root} (YOLO_LITE_DATA)")
        return root / name

    return find


@pytest.fixture(scope="session", name="make_coco")
def make_coco_fixture() -> Callable[..., Path]:
    """`make_coco`, for test files, which cannot import this one."""
    return make_coco


def boxes_of(coco: Path, split: str) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """By file name: a plain data set's image entry and its annotations."""
    content = json.loads((coco / "annotations" / f"{split}.json").read_text())
    return {
        image["file_name"]: (image, [a for a in content["annotations"] if a["image_id"] == image["id"]])
        for image in content["images"]
    }


@pytest.fixture
def as_yolo(tmp_path: Path) -> Callable[[Path], Path]:
    """A plain COCO data set (ids 1, 2, ...) as YOLO: images/SPLIT/, labels/SPLIT/, data.yaml."""

    def make(coco: Path) -> Path:
        root = tmp_path / f"{coco.name}_yolo"
        for split in ("train", "val"):
            shutil.copytree(coco / "images" / split, root / "images" / split)
            (root / "labels" / split).mkdir(parents=True)
            for name, (image, objects_of) in boxes_of(coco, split).items():
                rows = []
                for a in objects_of:
                    x, y, w, h = a["bbox"]
                    shares = ((x + w / 2) / image["width"], (y + h / 2) / image["height"])
                    shares += (w / image["width"], h / image["height"])
                    rows.append(" ".join(map(str, (a["category_id"] - 1, *shares))) + "\n")
                (root / "labels" / split / name).with_suffix(".txt").write_text("".join(rows))
        categories = json.loads((coco / "annotations" / "train.json").read_text())["categories"]
        names = [c["name"] for c in categories]
        (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnc: {len(names)}\nnames: {names}\n")
        return root

    return make


@pytest.fixture
def as_voc(tmp_path: Path) -> Callable[[Path], Path]:
    """A plain COCO data set as Pascal VOC: JPEGImages/, Annotations/, ImageSets/Main/."""

    def make(coco: Path) -> Path:
        root = tmp_path / f"{coco.name}_voc"
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)
        content = json.loads((coco / "annotations" / "train.json").read_text())
        names = {c["id"]: c["name"] for c in content["categories"]}
        for split in ("train", "val"):
            for name, (image, objects_of) in boxes_of(coco, split).items():
                shutil.copy(coco / "images" / split / name, root / "JPEGImages" / name)
                objects = ""
                for a in objects_of:
                    x, y, w, h = a["bbox"]
                    corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
                    box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
                    name_of_class = names[a["category_id"]]
                    objects += (
                        f"<object><name>{name_of_class}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
                    )
                size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
                xml = f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
                (root / "Annotations" / name).with_suffix(".xml").write_text(xml)
            stems = [Path(name).stem for name in boxes_of(coco, split)]
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        return root

    return make


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser of the system; the test is skipped where there is none."""
    reason = "playwright is not installed (requirements-dev.txt)"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)  # in a new profile
        yield browser
        browser.close()
