"""Small worlds to score: ground truth as COCO writes it, detections, and pycocotools as the judge."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lite.data.coco import read_coco
from yolo_lite.data.index import DetectionIndex, PackedStrings
from yolo_lite.evaluation import report
from yolo_lite.evaluation.analysis import analyse
from yolo_lite.evaluation.detections import DetectionTable
from yolo_lite.evaluation.report import ScoredModel


def objects_world(
    objects: Sequence[tuple[int, int, Sequence[float]]], num_images: int = 1, categories: Sequence[int] = (1, 2, 3)
) -> dict[str, Any]:
    """A COCO file's content.

    Args:
        objects: (image, class index, box xywh); a class index of -1 - c is a crowd of class c.
        num_images: ids are 10, 20, ...
        categories: their ids.
    """
    return {
        "images": [
            {"id": 10 + 10 * i, "file_name": f"{i}.jpg", "width": 640, "height": 640} for i in range(num_images)
        ],
        "annotations": [
            {
                "id": number + 1,
                "image_id": 10 + 10 * image,
                "category_id": categories[label if label >= 0 else -1 - label],
                "bbox": [float(value) for value in box],
                "area": float(box[2] * box[3]),
                "iscrowd": int(label < 0),
            }
            for number, (image, label, box) in enumerate(objects)
        ],
        "categories": [{"id": id_, "name": f"class{id_}"} for id_ in categories],
    }


def random_world(
    seed: int,
    num_images: int = 5,
    num_classes: int = 3,
    per_image: float = 4,
    detections: int = 12,
    crowds: float = 0.1,
    levels: int = 10,
) -> tuple[dict[str, Any], DetectionTable]:
    """Ground truth with crowds, areas of masks and gaps in the category ids; detections beside it and in the blue.

    Coordinates are quarters of a pixel, so that boxes of equal IoU come up; there are but `levels` different scores.
    """
    rng = np.random.default_rng(seed)
    categories = (3 * np.arange(num_classes) + 2).tolist()
    objects = []
    for i in range(num_images):
        for _ in range(int(rng.poisson(per_image)) if i else 0):
            w, h = np.exp(rng.uniform(np.log(10), np.log(200), 2)).round()
            x, y = rng.integers(0, 300, 2)
            label = int(rng.integers(num_classes))
            objects.append((i, -1 - label if rng.random() < crowds else label, (x, y, w, h)))
            if rng.random() < 0.3:  # a second one beside it, so that detections have a choice
                objects.append((i, label, (x + w // 8, y, w, h)))
    content = objects_world(objects, num_images, categories)
    for entry in content["annotations"]:
        entry["area"] *= float(rng.uniform(0.3, 1))
    rows = []
    for i in range(num_images):
        own = [(label if label >= 0 else -1 - label, box) for image, label, box in objects if image == i]
        for _ in range(detections if i != 1 else 0):
            if own and rng.random() < 0.7:
                label, (x, y, w, h) = own[rng.integers(len(own))]
                shift = np.round(rng.normal(0, 0.15, 4) * (w, h, w, h) * 4) / 4 * (rng.random() < 0.8)
                label = label if rng.random() < 0.8 else int(rng.integers(num_classes))
                box = (x + shift[0], y + shift[1], max(w + shift[2], 1), max(h + shift[3], 1))
            else:
                label, box = int(rng.integers(num_classes)), (*rng.integers(0, 300, 2), *rng.integers(1, 150, 2))
            rows.append((i, label, box, rng.integers(1, levels + 1) / levels))
    return content, table_of(rows, num_images)


def table_of(rows: Sequence[tuple[int, int, Sequence[float], float]], num_images: int = 1) -> DetectionTable:
    """Detections as (image, class index, box xywh, score)."""
    boxes = np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4)
    return DetectionTable(
        image_ids=np.array([10 + 10 * row[0] for row in rows], dtype=np.int64),
        boxes_xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32),
        scores=np.array([row[3] for row in rows], dtype=np.float32),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        seen=10 + 10 * np.arange(num_images),
    )


def noisy_copy(index: DetectionIndex, seed: int = 0) -> DetectionTable:
    """Detections made of the ground truth: moved, at times of another class, at times twice, and clutter."""
    rng = np.random.default_rng(seed)
    num_classes = len(index.class_names)
    owners = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    picked = np.concatenate([np.flatnonzero(rng.random(len(owners)) < share) for share in (0.9, 0.4)])
    boxes = index.boxes_xywh[picked] * np.float32(1)
    boxes += (rng.normal(0, 0.08, boxes.shape) * np.tile(boxes[:, 2:], 2)).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    labels = np.where(rng.random(len(picked)) < 0.9, index.labels[picked], rng.integers(0, num_classes, len(picked)))
    clutter = 5 * len(index)
    owners = np.concatenate([owners[picked], rng.integers(0, len(index), clutter)])
    boxes = np.concatenate([boxes, rng.uniform(1, 200, (clutter, 4)).astype(np.float32)])
    labels = np.concatenate([labels, rng.integers(0, num_classes, clutter)])
    return DetectionTable(
        image_ids=index.image_ids[owners],
        boxes_xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        scores=rng.random(len(owners)).astype(np.float32),
        labels=labels.astype(np.int64),
        seen=index.image_ids,
    )


def coco_results(table: DetectionTable, index: DetectionIndex) -> list[dict[str, Any]]:
    """What pycocotools reads."""
    boxes = table.boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {"image_id": int(i), "category_id": index.category_ids[label], "bbox": box, "score": float(score)}
        for i, label, box, score in zip(table.image_ids, table.labels, boxes.tolist(), table.scores, strict=True)
    ]


def judge(
    content: dict[str, Any], results: list[dict[str, Any]] | str, images: Sequence[int] | None = None
) -> COCOeval:
    """pycocotools' evaluation of detections, or of a file with some; of the images with these ids alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:  # loadRes fails on an empty list
            found = COCO()
            found.dataset = {**content, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        if images is not None:
            evaluation.params.imgIds = sorted(int(i) for i in images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.fixture(scope="session")
def index_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], DetectionIndex]:
    """The index of a COCO file's content."""
    path = tmp_path_factory.mktemp("worlds") / "annotations.json"

    def read(content: dict[str, Any]) -> DetectionIndex:
        path.write_text(json.dumps(content))
        return read_coco(path, path.parent)

    return read


@pytest.fixture(scope="session")
def real_world(data_root: Callable[[str], Path]) -> Callable[[str], tuple[dict[str, Any], DetectionIndex]]:
    """The validation split of a real data set, as it stands in the file and as index."""

    def read(name: str) -> tuple[dict[str, Any], DetectionIndex]:
        path = data_root(name) / "annotations" / "val.json"
        return json.loads(path.read_text()), read_coco(path, data_root(name) / "images")

    return read


def as_fixture(function: Callable[..., Any]) -> Any:
    """Test files cannot import this one."""
    return pytest.fixture(scope="session", name=function.__name__)(lambda: function)


objects_world_fixture = as_fixture(objects_world)
random_world_fixture = as_fixture(random_world)
table_of_fixture = as_fixture(table_of)
noisy_copy_fixture = as_fixture(noisy_copy)
coco_results_fixture = as_fixture(coco_results)
judge_fixture = as_fixture(judge)


PHOTO_SIZE = (96, 128)  # height, width


def make_index(folder: Path, names: list[str], boxes_xywh: list[np.ndarray], labels: list[list[int]]) -> DetectionIndex:
    """An index of images that are drawn here: boxes (K, 4) and labels of each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files = [f"image_{i}.jpg" for i in range(len(boxes_xywh))]
    for file in files:
        assert cv2.imwrite(str(folder / file), rng.integers(0, 255, (*PHOTO_SIZE, 3), dtype=np.uint8))
    boxes = np.concatenate([np.zeros((0, 4)), *boxes_xywh]).astype(np.float32)
    flat = np.array([label for some in labels for label in some], dtype=np.int32)
    return DetectionIndex(
        source=folder / "truth.json",
        image_dir=folder,
        class_names=names,
        category_ids=list(range(1, len(names) + 1)),
        file_names=PackedStrings(files),
        image_ids=np.arange(len(files), dtype=np.int64) + 10,
        sizes=np.array([PHOTO_SIZE] * len(files), dtype=np.int32).reshape(-1, 2),
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


@pytest.fixture
def plain_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with a dot for each figure: drawing them is most of the work, and tested elsewhere."""
    dot = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    names = ("precision_recall", "confusion")
    monkeypatch.setattr(report, "draw_figures", lambda analysis: dict.fromkeys(names, dot))
