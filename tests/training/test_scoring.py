"""Collecting the detections of an epoch, and what scoring keeps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from yolo_lite.data.coco import read_coco
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.evaluation.coco_scores import score_detections
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


def test_batches_are_collected_as_they_are(tmp_path: Path, make_coco) -> None:  # type: ignore[no-untyped-def]
    """In batches of any size: rows in order, images without detections among those looked at."""
    make_coco(tmp_path / "data", num_val=4)
    index = read_coco(tmp_path / "data" / "annotations" / "val.json", tmp_path / "data" / "images")
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in (3, 0, 2, 1):
        corners = 100 * torch.rand(count, 2, 2, generator=generator).cumsum(dim=1)
        found.append(Detections(corners.flatten(1), torch.rand(count, generator=generator), torch.arange(count) % 2))
    metric = CocoMetric()
    ids = torch.from_numpy(index.image_ids)
    metric.update(ids[:3], found[:3])
    metric.update(ids[3:], found[3:])
    table = metric.table()
    assert table.seen.tolist() == ids.tolist() and table.image_ids.tolist() == ids[[0, 0, 0, 2, 2, 3]].tolist()
    assert np.array_equal(table.boxes_xyxy, torch.cat([d.boxes_xyxy for d in found]).numpy())
    assert np.array_equal(table.labels, torch.cat([d.labels for d in found]).numpy())
    assert metric.compute(index) == score_detections(table, index)
    assert metric.gathered is not None and np.array_equal(metric.gathered.scores, table.scores)
    metric.reset()
    assert metric.gathered is None and len(metric.table()) == 0 == metric.compute(index).num_images


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
    assert module.detections is not None and module.detections.scores.tolist() == pytest.approx([0.05] * 3)
    maps = unsure_maps(torch.zeros(1, 3, 64, 64))
    assert [len(d) for d in detect(maps, (8, 16, 32), 16, PREDICT_SCORE, PREDICT_IOU, MAX_DETECTIONS)] == [0]
    assert (EVAL_SCORE, EVAL_IOU, MAX_DETECTIONS, PREDICT_SCORE) == (0.001, 0.7, 300, 0.25)
