"""Scoring against pycocotools, and what validation must leave alone."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lite.data.coco import read_coco
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.evaluation.coco_scores import COCO_NUMBERS
from yolo_lite.ops.postprocess import (
    EVAL_IOU,
    EVAL_SCORE,
    MAX_DETECTIONS,
    PREDICT_IOU,
    PREDICT_SCORE,
    Detections,
    detect,
)
from yolo_lite.training.metrics import CocoMetric
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.trainer import silent_trainer


def noisy_detections(path: Path, seed: int) -> dict[int, list[tuple[list[float], float, int]]]:
    """Category-id detections by image id: moved ground truth and clutter."""
    rng = np.random.default_rng(seed)
    data = json.loads(path.read_text())
    categories = sorted(c["id"] for c in data["categories"])
    found: dict[int, list[tuple[list[float], float, int]]] = {image["id"]: [] for image in data["images"]}
    for a in data["annotations"]:
        x, y, w, h = a["bbox"]
        dx, dy = rng.normal(0, 0.08, 2) * (w, h)
        category = a["category_id"] if rng.random() < 0.9 else int(rng.choice(categories))
        box = np.float32([x + dx, y + dy, x + dx + w, y + dy + h]).tolist()
        found[a["image_id"]].append((box, float(np.float32(rng.random())), category))
    for rows in found.values():
        for _ in range(5):
            x, y = rng.uniform(0, 200, 2)
            w, h = rng.uniform(5, 150, 2)
            box = np.float32([x, y, x + w, y + h]).tolist()
            rows.append((box, float(np.float32(rng.random() * 0.5)), int(rng.choice(categories))))
    return found


@pytest.mark.parametrize("with_crowds", [False, True])
@pytest.mark.parametrize("name", ["bccd", "coco128"])
def test_numbers_equal_pycocotools(name: str, with_crowds: bool, data_root, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = data_root(name)
    content = json.loads((root / "annotations" / "val.json").read_text())
    for i, entry in enumerate(content["annotations"]):
        entry["iscrowd"] = int(with_crowds and i % 5 == 0)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    index = read_coco(path, root / "images")
    found = noisy_detections(path, seed=1)
    class_index = {category: i for i, category in enumerate(index.category_ids)}
    metric = CocoMetric()
    rows = []
    for image_id, detections in found.items():
        boxes = torch.tensor([d[0] for d in detections]).view(-1, 4)
        scores = torch.tensor([d[1] for d in detections])
        labels = torch.tensor([class_index[d[2]] for d in detections])
        metric.update(torch.tensor([image_id]), [Detections(boxes, scores, labels)])
        for box, score, category in detections:
            x1, y1, x2, y2 = box
            rows.append(
                {"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
    scores_ours = metric.compute(index)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0.05 < evaluation.stats[0] < 0.95  # a score at either end would prove nothing
    for ours, theirs in zip(COCO_NUMBERS, evaluation.stats, strict=True):
        assert scores_ours.numbers[ours] == pytest.approx(theirs, abs=1e-6), ours
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # IoU, recall, class; all areas, 100 detections
    for k, class_name in enumerate(index.class_names):
        values = precision[:, :, k]
        expected = values[values > -1].mean() if (values > -1).any() else -1
        assert scores_ours.per_class[class_name] == pytest.approx(expected, abs=1e-6), class_name


def test_no_detections_score_zero(tmp_path: Path, make_coco) -> None:  # type: ignore[no-untyped-def]
    make_coco(tmp_path / "data")
    index = read_coco(tmp_path / "data" / "annotations" / "val.json", tmp_path / "data" / "images")
    metric = CocoMetric()
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    for image_id in index.image_ids.tolist():
        metric.update(torch.tensor([image_id]), [nothing])
    assert metric.compute(index).numbers["map_50_95"] == 0.0


def unsure_maps(images: torch.Tensor) -> list[torch.Tensor]:
    """The one object of every image, 16 16 48 40 in pixels, with a score of 0.05 and nothing else."""
    maps = [torch.full((len(images), 65, 64 // s, 64 // s), -30.0) for s in (8, 16, 32)]
    row = column = 3  # the cell of stride 8 with its centre at (28, 28)
    for side, distance in enumerate((1.5, 1.5, 2.5, 1.5)):  # left, top, right, bottom in cells
        for bin_ in (int(distance), int(distance) + 1):
            maps[0][:, 16 * side + bin_, row, column] = 30.0
    maps[0][:, 64, row, column] = math.log(0.05 / 0.95)
    return maps


def test_scoring_keeps_what_prediction_hides(tmp_path: Path) -> None:
    """A threshold of 0.25 in scoring gives mAP 0 to every detector that has just begun to learn."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(3)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [16, 16, 32, 24], "area": 768} for i in range(3)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(content))
    for i in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.zeros((64, 64, 3), np.uint8))
    module = DetectionModule("yolov8n", ["thing"], image_size=64)
    module.model.forward = unsure_maps  # type: ignore[method-assign]
    data = DetectionDataModule(tmp_path, image_size=64, batch_size=2, num_workers=0, cache="none")
    silent_trainer(accelerator="cpu").validate(module, datamodule=data, verbose=False)
    assert module.scores is not None
    assert module.scores.numbers["map_50_95"] == pytest.approx(1.0)
    maps = unsure_maps(torch.zeros(1, 3, 64, 64))
    assert [len(d) for d in detect(maps, (8, 16, 32), 16, PREDICT_SCORE, PREDICT_IOU, MAX_DETECTIONS)] == [0]
    assert (EVAL_SCORE, EVAL_IOU, MAX_DETECTIONS, PREDICT_SCORE) == (0.001, 0.7, 300, 0.25)
