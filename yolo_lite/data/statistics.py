"""What a split consists of: how many objects of which class and size, and the score of its own ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from yolo_lite.data.findings import MAX_EXAMPLES, Finding, Severity, image_example
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.label_checks import class_counts, named, owners
from yolo_lite.evaluation.coco_scores import score_detections
from yolo_lite.evaluation.detections import DetectionTable

# COCO's, in square pixels of the original image.
SIZE_LIMITS = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}
SCORED_IMAGES = 5000
MAX_SCORED_OBJECTS = 100  # of an image and a class: COCO looks at no more detections


@dataclass
class SplitStatistics:
    """One split in numbers.

    Attributes:
        images: how many.
        boxes: how many, crowds left out.
        crowds: regions marked as crowds.
        classes: objects by class name.
        sizes: objects by COCO's size ranges.
    """

    images: int
    boxes: int
    crowds: int
    classes: dict[str, int]
    sizes: dict[str, int]

    @staticmethod
    def of(index: DetectionIndex) -> SplitStatistics:
        """Count."""
        is_object = ~index.is_crowd
        ranges = np.searchsorted(list(SIZE_LIMITS.values()), index.areas[is_object], side="right")
        by_size = np.bincount(np.minimum(ranges, len(SIZE_LIMITS) - 1), minlength=len(SIZE_LIMITS)).tolist()
        return SplitStatistics(
            images=len(index),
            boxes=int(is_object.sum()),
            crowds=int(index.is_crowd.sum()),
            classes=dict(zip(index.class_names, class_counts(index).tolist(), strict=True)),
            sizes=dict(zip(SIZE_LIMITS, by_size, strict=True)),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(self.__dict__)


def self_score_findings(index: DetectionIndex, split: str) -> list[Finding]:
    """Ground truth scored against itself, with the scoring that training uses: a perfect detector must get AP 1.

    Of large splits, `SCORED_IMAGES` images are scored, evenly spaced.
    """
    if len(index) > SCORED_IMAGES:
        index = index.select(np.linspace(0, len(index) - 1, SCORED_IMAGES).astype(np.int64))
    is_object = ~index.is_crowd
    if not is_object.any():
        way_out = "annotate some, or check that the annotation file is the right one"
        return [Finding("no-boxes", "error", split, len(index), "images and not a single object", way_out)]
    owner, boxes = owners(index)[is_object], index.boxes_xywh[is_object]
    table = DetectionTable(
        image_ids=index.image_ids[owner],
        boxes_xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        scores=np.ones(len(boxes), dtype=np.float32),
        labels=index.labels[is_object].astype(np.int64),
        seen=index.image_ids,
    )
    scores = score_detections(table, index)
    short = [name for name, value in scores.per_class.items() if 0 <= value < 1 - 1e-6]
    if not short:
        return []
    crowded, counts = np.unique(np.stack([owner, index.labels[is_object]]), axis=1, return_counts=True)
    crowded = np.unique(crowded[0, counts > MAX_SCORED_OBJECTS])
    way_out = "see the boxes without extent, duplicated or tiny"
    severity: Severity = "error"
    if len(crowded):
        severity = "warning"
        way_out = f"COCO scores {MAX_SCORED_OBJECTS} detections of an image and class, {len(crowded)} images have more"
    examples = [image_example(index, split, int(i)) for i in crowded[:MAX_EXAMPLES]]
    ap = scores.numbers["map_50_95"]
    message = f"classes whose ground truth scores less than AP 1 against itself (mAP {ap:.4f}): {named(short)}"
    return [Finding("self-score", severity, split, len(short), message, way_out, examples)]
