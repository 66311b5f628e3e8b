"""COCO's 12 numbers and the scores of each class, equal to pycocotools', in numpy over all images at once.

Notation: C classes, D detections, M objects, R recall steps, T IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from yolo_lite.data.index import DetectionIndex
from yolo_lite.evaluation.detections import COCO_LIMIT, DetectionTable, Ranking, Scope
from yolo_lite.evaluation.matching import UNMATCHED, Pairs, find_pairs, match_by_score

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_STEPS = np.linspace(0.0, 1.0, 101)
# Square pixels of the original image, both ends included.
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
# In the order of COCO's table.
COCO_NUMBERS = (
    "map_50_95",
    "map_50",
    "map_75",
    "map_small",
    "map_medium",
    "map_large",
    "mar_1",
    "mar_10",
    "mar_100",
    "mar_small",
    "mar_medium",
    "mar_large",
)


@dataclass
class CocoScores:
    """What scoring found.

    Attributes:
        numbers: COCO's 12 numbers by name (`map_50_95`, `map_50`, ...); -1 where there is nothing to score.
        per_class: AP 0.50:0.95 by class name; -1 for classes without ground truth, here and below.
        per_class_50: AP at IoU 0.50 by class name.
        per_class_ar: AR 0.50:0.95 of 100 detections by class name.
        num_images: images scored.
        num_detections: detections in the table.
    """

    numbers: dict[str, float]
    per_class: dict[str, float] = field(default_factory=dict)
    per_class_50: dict[str, float] = field(default_factory=dict)
    per_class_ar: dict[str, float] = field(default_factory=dict)
    num_images: int = 0
    num_detections: int = 0


def format_score(value: float) -> str:
    """Four digits, or a dash where there is no ground truth."""
    return f"{value:.4f}" if value >= 0 else "-"


def precision_at_recall(
    ranking: Ranking, is_hit: np.ndarray, is_counted: np.ndarray, num_objects: np.ndarray
) -> np.ndarray:
    """(C, R) precision at `RECALL_STEPS`, the best at that recall or a higher one; -1 for classes without objects.

    Only hits are looked at: the recall rises there and nowhere else, and between them the precision falls.

    Args:
        ranking: of the detections.
        is_hit: (D,) detections that found an object, in the order of the scope.
        is_counted: (D,) hits and wrong detections; the others are ignored.
        num_objects: (C,) that could be found.
    """
    totals = np.concatenate([[0], np.cumsum(is_counted[ranking.order])])
    hits = np.flatnonzero(is_hit[ranking.order])
    cuts = np.searchsorted(hits, ranking.starts)
    result = np.full((len(num_objects), len(RECALL_STEPS)), -1.0)
    for c in np.flatnonzero(num_objects):
        here = hits[cuts[c] : cuts[c + 1]]
        found = np.arange(1, len(here) + 1)
        precision = found / (totals[here + 1] - totals[ranking.starts[c]] + np.spacing(1))
        precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        result[c] = precision[np.searchsorted(found / num_objects[c], RECALL_STEPS, side="left")]
    return result


def hits_per_class(scope: Scope, is_hit: np.ndarray) -> np.ndarray:
    """(C,) detections that found an object."""
    return np.bincount(scope.labels[is_hit], minlength=scope.num_classes)


def score_detections(table: DetectionTable, index: DetectionIndex) -> CocoScores:
    """COCO's evaluation (IoU 0.50:0.95, 100 detections, crowds ignored, areas from the file)."""
    scope = Scope.of(table, index)
    pairs = find_pairs(scope, IOU_THRESHOLDS[0])
    by_area = {name: score_area(scope, pairs, *limits) for name, limits in AREA_RANGES.items()}
    ap, recalls = by_area["all"]
    numbers = [mean_over_classes(ap), mean_over_classes(ap[:1]), mean_over_classes(ap[5:6])]
    numbers += [mean_over_classes(by_area[name][0]) for name in ("small", "medium", "large")]
    numbers += [mean_over_classes(recalls[limit]) for limit in (1, 10, COCO_LIMIT)]
    numbers += [mean_over_classes(by_area[name][1][COCO_LIMIT]) for name in ("small", "medium", "large")]

    def by_class(values: np.ndarray) -> dict[str, float]:
        return dict(zip(index.class_names, values.mean(axis=0).tolist(), strict=True))

    return CocoScores(
        numbers=dict(zip(COCO_NUMBERS, numbers, strict=True)),
        per_class=by_class(ap),
        per_class_50=by_class(ap[:1]),
        per_class_ar=by_class(recalls[COCO_LIMIT]),
        num_images=int(scope.is_seen.sum()),
        num_detections=len(table),
    )


def score_area(scope: Scope, pairs: Pairs, smallest: float, largest: float) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """AP (T, C), and by number of detections of an image and a class the recall (T, C); -1 for classes without objects.

    Args:
        scope: what is scored.
        pairs: of one class, with an IoU of at least the lowest threshold.
        smallest, largest: square pixels of the objects that count; others are ignored, and so are detections of other
            sizes that match none.
    """
    is_ignored = scope.is_crowd | (scope.object_areas < smallest) | (scope.object_areas > largest)
    areas = scope.boxes_xywh[:, 2] * scope.boxes_xywh[:, 3]
    is_inside = (areas >= smallest) & (areas <= largest)
    num_objects = np.bincount(scope.object_labels[~is_ignored], minlength=scope.num_classes)
    pairs = pairs.preferring(is_ignored)
    ap, recalls = [], {limit: np.full((len(IOU_THRESHOLDS), scope.num_classes), -1.0) for limit in (1, 10, COCO_LIMIT)}
    for t, threshold in enumerate(IOU_THRESHOLDS):
        matches = match_by_score(scope, pairs, threshold)
        is_matched = matches != UNMATCHED
        is_hit = is_matched.copy()
        is_hit[is_matched] = ~is_ignored[matches[is_matched]]
        is_counted = is_hit | (~is_matched & is_inside)
        ap.append(precision_at_recall(scope.ranking, is_hit, is_counted, num_objects).mean(axis=1))
        for limit, recall in recalls.items():
            found = hits_per_class(scope, is_hit & (scope.ranks < limit))
            np.divide(found, num_objects, out=recall[t], where=num_objects > 0)
    return np.stack(ap), recalls


def mean_over_classes(values: np.ndarray) -> float:
    """Of (T, C) the mean over thresholds and the classes with objects; -1 where there are none."""
    valid = values > -1
    return float(values[valid].mean()) if valid.any() else -1.0
