"""What scoring found beyond COCO's numbers, as plain arrays that reports, pictures and JSON are made from.

Notation: C classes, D detections, M annotations, S score thresholds, N images. IoU 0.5 unless said otherwise; crowds are
ignored, as in COCO. -1 or NaN stands for what cannot be told, such as the precision where nothing was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from yolo_lite.evaluation.coco_scores import CocoScores

ErrorType = Literal["localisation", "class", "both", "duplicate", "background", "missed"]
ERROR_TYPES: tuple[ErrorType, ...] = ("localisation", "class", "both", "duplicate", "background", "missed")


@dataclass(frozen=True)
class OperatingPoint:
    """Precision, recall and F1 of the detections that score at least `score`."""

    score: float
    precision: float
    recall: float
    f1: float


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
class Curves:
    """How precision, recall and F1 depend on the score threshold, and precision on recall.

    Attributes:
        thresholds: (S,) scores from 0 to 1.
        precision, recall, f1: (1 + C, S); the first row is of all classes' detections together.
        recall_steps: (101,) from 0 to 1.
        precision_at_recall: (1 + C, 101), interpolated as COCO does; the first row is the mean over classes.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    recall_steps: np.ndarray
    precision_at_recall: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """How often detections of a score are right.

    Attributes:
        edges: (K + 1,) of the bins of scores.
        counts: (K,) detections.
        mean_score: (K,) of them, NaN in empty bins.
        hit_share: (K,) share that matches an object.
        error: expected calibration error (arXiv:1706.04599), weighted by counts.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean_score: np.ndarray
    hit_share: np.ndarray
    error: float


@dataclass(frozen=True)
class Errors:
    """Why detections above a threshold are wrong and which objects were not found (TIDE, arXiv:2008.08115).

    Attributes:
        counts: by type, at the overall best threshold.
        gains: by type, what AP at IoU 0.50 would gain if these were mended (over all scores).
    """

    counts: dict[ErrorType, int]
    gains: dict[ErrorType, float]


@dataclass(frozen=True)
class ImageRecord:
    """What happened on one image at the overall best threshold: rows of the detection table and of the index.

    Attributes:
        position: of the image in the index.
        found: F1 of this image; NaN where there is neither object nor detection.
        detections: (K,) rows of the detection table above the threshold.
        detection_errors: K names, "" for right ones and "ignored" for those on crowds.
        objects: (G,) rows of the index's annotations that count.
        object_errors: G names: "" for found ones, "missed" for others.
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
        curves: over all thresholds.
        confusion: (C + 1, C + 1) counts, rows truth, columns prediction, the last of each background.
        calibration: of the scores.
        errors: by type.
        images: N, in the order of the index.
    """

    coco: CocoScores
    classes: list[ClassScores]
    best: OperatingPoint
    curves: Curves
    confusion: np.ndarray
    calibration: Calibration
    errors: Errors
    images: list[ImageRecord]
