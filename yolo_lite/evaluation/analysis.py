"""What scoring found beyond COCO's numbers, as plain arrays that reports, pictures and JSON are made from.

Notation: C classes, D detections, M annotations, S score thresholds, N images. IoU 0.5 unless said otherwise; crowds
are ignored and of an image the best 100 detections of each class are scored, as in COCO. -1 or NaN stands for what
cannot be told, such as the precision where nothing was found.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from yolo_lite.data.index import DetectionIndex
from yolo_lite.evaluation.calibration import Calibration, calibrate
from yolo_lite.evaluation.coco_scores import CocoScores, score_detections
from yolo_lite.evaluation.confusion import confusion_matrix
from yolo_lite.evaluation.curves import Curves, OperatingPoint, best_points, make_curves, points_at
from yolo_lite.evaluation.detections import DetectionTable, Scope
from yolo_lite.evaluation.errors import (
    BACKGROUND_IOU,
    ERROR_TYPES,
    Blame,
    Errors,
    analyse_errors,
    find_errors,
)
from yolo_lite.evaluation.matching import Outcome, find_pairs, match_scope

HIT_IOU = 0.5
# Of the thresholds of the curves every so many are written to JSON: steps of 0.01.
JSON_STEP = 10


@dataclass(frozen=True)
class ClassScores:
    """Numbers of one class.

    Attributes:
        name: of the class.
        num_objects: annotations that count.
        num_images: images with one of them.
        num_detections: detections of this class that were scored.
        ap: AP 0.50:0.95.
        ap_50: AP at IoU 0.50.
        ar: AR of 100 detections.
        best: where F1 is best.
    """

    name: str
    num_objects: int
    num_images: int
    num_detections: int
    ap: float
    ap_50: float
    ar: float
    best: OperatingPoint


@dataclass(frozen=True)
class ImageRecord:
    """What happened on one image at the overall best threshold: rows of the detection table and of the index.

    Attributes:
        position: of the image in the index.
        found: F1 of this image; NaN where there is neither object nor detection.
        detections: (K,) rows of the detection table at or above the threshold, best first.
        detection_errors: K names, "" for right ones and "ignored" for those on crowds.
        objects: (G,) rows of the index's annotations that count.
        object_errors: G names: "" for found ones, "missed" for others, also where a localisation or class error was
            meant for them (`Errors.counts` leaves those out).
    """

    position: int
    found: float
    detections: np.ndarray
    detection_errors: list[str]
    objects: np.ndarray
    object_errors: list[str]


@dataclass(frozen=True)
class Analysis:
    """Everything of one model on one split.

    Attributes:
        coco: COCO's 12 numbers.
        classes: numbers of each class, in the order of the indices.
        best: where F1 over all classes' detections is best; the threshold of what follows.
        at_best: 1 + C, all classes together first, at this threshold: `curves` stop only near it.
        curves: over all thresholds.
        confusion: (C + 1, C + 1) counts, rows truth, columns prediction, the last of each background.
        calibration: of the scores.
        errors: by type.
        images: N, in the order of the index.
    """

    coco: CocoScores
    classes: list[ClassScores]
    best: OperatingPoint
    at_best: list[OperatingPoint]
    curves: Curves
    confusion: np.ndarray
    calibration: Calibration
    errors: Errors
    images: list[ImageRecord]


def analyse(table: DetectionTable, index: DetectionIndex, scores: CocoScores | None = None) -> Analysis:
    """Everything of a table of detections.

    Args:
        table: detections of all images that were looked at.
        index: ground truth.
        scores: COCO's, if they are there already.
    """
    scores = scores or score_detections(table, index)
    scope = Scope.of(table, index)
    pairs = find_pairs(scope, BACKGROUND_IOU, of_one_class=False)
    outcome = match_scope(scope, pairs, HIT_IOU)
    best, *best_by_class = best_points(outcome)
    blame = find_errors(outcome, pairs)
    counted = outcome.is_counted
    return Analysis(
        coco=scores,
        classes=class_scores(outcome, index.class_names, scores, best_by_class),
        best=best,
        at_best=points_at(outcome, best.score),
        curves=make_curves(outcome),
        confusion=confusion_matrix(outcome, pairs, best.score),
        calibration=calibrate(scope.scores[counted], outcome.is_hit[counted]),
        errors=analyse_errors(outcome, blame, best.score),
        images=image_records(outcome, blame, best.score),
    )


def class_scores(
    outcome: Outcome, names: list[str], scores: CocoScores, best: list[OperatingPoint]
) -> list[ClassScores]:
    """C rows: what was counted, and the scores of each class."""
    scope = outcome.scope
    is_object = ~scope.is_crowd
    keys = np.unique(scope.object_images[is_object] * scope.num_classes + scope.object_labels[is_object])
    num_images = np.bincount(keys % scope.num_classes, minlength=scope.num_classes)
    num_detections = np.bincount(scope.labels, minlength=scope.num_classes)
    return [
        ClassScores(
            name=name,
            num_objects=int(outcome.num_objects[c]),
            num_images=int(num_images[c]),
            num_detections=int(num_detections[c]),
            ap=scores.per_class[name],
            ap_50=scores.per_class_50[name],
            ar=scores.per_class_ar[name],
            best=best[c],
        )
        for c, name in enumerate(names)
    ]


def image_records(outcome: Outcome, blame: Blame, score: float) -> list[ImageRecord]:
    """Of every image that was looked at, in the order of the index."""
    scope = outcome.scope
    names = np.array([*ERROR_TYPES, "ignored", ""], dtype=object)  # the last one is at NO_ERROR
    types = np.where(outcome.on_crowd, len(ERROR_TYPES), blame.types)
    shown = np.flatnonzero(scope.scores >= score)
    shown = shown[np.lexsort((-scope.scores[shown], scope.images[shown]))]
    is_found = np.zeros(len(scope.object_rows), dtype=bool)
    is_found[outcome.matches[shown[outcome.is_hit[shown]]]] = True
    objects = np.flatnonzero(~scope.is_crowd)
    cuts = np.searchsorted(scope.images[shown], np.arange(scope.num_images + 1))
    object_cuts = np.searchsorted(scope.object_images[objects], np.arange(scope.num_images + 1))
    records = []
    for i in np.flatnonzero(scope.is_seen).tolist():
        here, there = shown[cuts[i] : cuts[i + 1]], objects[object_cuts[i] : object_cuts[i + 1]]
        total = int(np.count_nonzero(~outcome.on_crowd[here])) + len(there)
        records.append(
            ImageRecord(
                position=i,
                found=2 * int(np.count_nonzero(is_found[there])) / total if total else math.nan,
                detections=scope.rows[here],
                detection_errors=names[types[here]].tolist(),
                objects=scope.object_rows[there],
                object_errors=np.where(is_found[there], "", "missed").tolist(),
            )
        )
    return records


def to_json(analysis: Analysis) -> dict[str, Any]:
    """All numbers as plain values, NaN as None; curves at every hundredth of the score, images left out."""
    curves = analysis.curves
    content = {
        "coco": asdict(analysis.coco),
        "classes": [asdict(row) for row in analysis.classes],
        "best": asdict(analysis.best),
        "curves": {
            "thresholds": curves.thresholds[::JSON_STEP],
            "precision": curves.precision[:, ::JSON_STEP],
            "recall": curves.recall[:, ::JSON_STEP],
            "f1": curves.f1[:, ::JSON_STEP],
            "recall_steps": curves.recall_steps,
            "precision_at_recall": curves.precision_at_recall,
        },
        "confusion": analysis.confusion,
        "calibration": asdict(analysis.calibration),
        "errors": asdict(analysis.errors),
    }
    plain: dict[str, Any] = plain_values(content)
    return plain


def plain_values(value: Any) -> Any:
    """Arrays as lists, NaN as None, numbers to six digits behind the point."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, list):
        return [plain_values(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
