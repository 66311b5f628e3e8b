"""Detections as a results file of COCO, which pycocotools and evaluation servers read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from yolo_lite.data.index import DetectionIndex
from yolo_lite.evaluation.detections import DetectionTable
from yolo_lite.utils.files import replacing

CHUNK = 10_000


def write_detections(path: Path, table: DetectionTable, index: DetectionIndex) -> None:
    """Write all detections, whole or not at all: the ids of images and categories are those of the annotation file.

    Numbers are written in full, so that whoever scores the file gets what was scored here.

    Args:
        path: a new file, or one to be replaced.
        table: detections.
        index: ground truth that knows the category ids.

    Raises:
        UserError: the file cannot be written.
    """
    categories = np.array(index.category_ids, dtype=np.int64)[table.labels]
    boxes_xywh = table.boxes_xywh()
    with replacing(path) as file:
        file.write(b"[")
        for start in range(0, len(table), CHUNK):
            rows = slice(start, start + CHUNK)
            columns = (table.image_ids[rows], categories[rows], boxes_xywh[rows], table.scores[rows].astype(np.float64))
            lines = [
                json.dumps({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})
                for image_id, category_id, box, score in zip(*(column.tolist() for column in columns), strict=True)
            ]
            file.write((",\n" if start else "\n").encode() + ",\n".join(lines).encode())
        file.write(b"\n]\n")
