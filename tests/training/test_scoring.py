"""Scoring against pycocotools, and what validation must leave alone."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lite.data.coco import read_coco
from yolo_lite.ops.postprocess import EVAL_IOU, EVAL_SCORE, MAX_DETECTIONS, PREDICT_SCORE, Detections
from yolo_lite.training.metrics import COCO_NUMBERS, CocoMetric


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


@pytest.mark.parametrize("name", ["bccd", "coco128"])
def test_numbers_equal_pycocotools(name: str, data_root) -> None:  # type: ignore[no-untyped-def]
    root = data_root(name) if callable(data_root) else data_root / name
    path = root / "annotations" / "val.json"
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
    for ours, theirs in zip(COCO_NUMBERS.values(), evaluation.stats, strict=True):
        assert scores_ours.numbers[ours] == pytest.approx(theirs, abs=1e-6), ours


def test_no_detections_score_zero(tmp_path: Path, make_coco) -> None:  # type: ignore[no-untyped-def]
    make_coco(tmp_path / "data")
    index = read_coco(tmp_path / "data" / "annotations" / "val.json", tmp_path / "data" / "images")
    metric = CocoMetric()
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    for image_id in index.image_ids.tolist():
        metric.update(torch.tensor([image_id]), [nothing])
    assert metric.compute(index).numbers["map_50_95"] == 0.0


def test_scoring_keeps_what_prediction_hides() -> None:
    """A threshold of 0.25 in scoring gives mAP 0 to every detector that has just begun to learn."""
    assert (EVAL_SCORE, EVAL_IOU, MAX_DETECTIONS, PREDICT_SCORE) == (0.001, 0.7, 300, 0.25)
