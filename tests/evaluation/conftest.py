"""A scored model of any size, made up: images of noise, objects, and detections of which some are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_lite.data.index import DetectionIndex, PackedStrings
from yolo_lite.evaluation.analysis import analyse
from yolo_lite.evaluation.detections import DetectionTable
from yolo_lite.evaluation.report import ScoredModel

SIZE = (96, 128)  # height, width


def make_index(folder: Path, names: list[str], boxes_xywh: list[np.ndarray], labels: list[list[int]]) -> DetectionIndex:
    """An index of images that are drawn here: boxes (K, 4) and labels of each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files = [f"image_{i}.jpg" for i in range(len(boxes_xywh))]
    for file in files:
        assert cv2.imwrite(str(folder / file), rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    boxes = np.concatenate([np.zeros((0, 4)), *boxes_xywh]).astype(np.float32)
    flat = np.array([label for some in labels for label in some], dtype=np.int32)
    return DetectionIndex(
        source=folder / "truth.json",
        image_dir=folder,
        class_names=names,
        category_ids=list(range(1, len(names) + 1)),
        file_names=PackedStrings(files),
        image_ids=np.arange(len(files), dtype=np.int64) + 10,
        sizes=np.array([SIZE] * len(files), dtype=np.int32).reshape(-1, 2),
        offsets=np.concatenate([[0], np.cumsum([len(some) for some in labels])]).astype(np.int64),
        boxes_xywh=boxes,
        labels=flat,
        areas=boxes[:, 2] * boxes[:, 3],
        is_crowd=np.zeros(len(flat), dtype=bool),
        is_trainable=np.ones(len(flat), dtype=bool),
    )


@pytest.fixture
def scored_model(tmp_path: Path) -> Callable[..., ScoredModel]:
    """`scored_model(names=["cat"], num_images=4, per_image=2)`: object k of image i has class (i + k) % C.

    Of the detections, those of image 0 lie elsewhere, of image 1 have another class, the others are right; with
    `has_detections=False` there are none. `side` is that of the objects, pixels.
    """

    def make(
        names: list[str] | None = None,
        num_images: int = 4,
        per_image: int = 2,
        side: float = 30.0,
        has_detections: bool = True,
        name: str = "model",
    ) -> ScoredModel:
        names = names or ["cat", "dog"]
        boxes, labels = [], []
        for i in range(num_images):
            places = np.array([[5 + 40 * (k % 3), 5 + 40 * (k // 3 % 2)] for k in range(per_image)]).reshape(-1, 2)
            boxes.append(np.concatenate([places, np.full((per_image, 2), side)], axis=1))
            labels.append([(i + k) % len(names) for k in range(per_image)])
        index = make_index(tmp_path / "images", names, boxes, labels)
        found_xywh = index.boxes_xywh.copy()
        found = index.labels.astype(np.int64)
        owners = np.repeat(np.arange(num_images), np.diff(index.offsets))
        found_xywh[owners == 0, :2] += np.array([0, 45 if side > 10 else 20], dtype=np.float32)
        found[owners == 1] = (found[owners == 1] + 1) % len(names)
        rows = np.arange(len(found) if has_detections else 0)
        table = DetectionTable(
            image_ids=index.image_ids[owners[rows]],
            boxes_xyxy=np.concatenate([found_xywh[:, :2], found_xywh[:, :2] + found_xywh[:, 2:]], axis=1)[rows],
            scores=np.linspace(0.9, 0.5, len(rows), dtype=np.float32),
            labels=found[rows],
            seen=index.image_ids,
        )
        return ScoredModel(name, analyse(table, index), table, index, {"split": "val", "checkpoint": "best.ckpt"})

    return make
