"""Precision, recall and F1 over the score threshold, and precision over recall, at one IoU.

Notation: C classes, D detections, R recall steps, S thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_lite.evaluation.coco_scores import RECALL_STEPS, precision_at_recall
from yolo_lite.evaluation.detections import Ranking
from yolo_lite.evaluation.matching import Outcome

NUM_THRESHOLDS = 1001


@dataclass(frozen=True)
class OperatingPoint:
    """Precision, recall and F1 of the detections that score at least `score`.

    All are NaN where there is no detection, but for a recall and F1 of 0 where there are objects.
    """

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Curves:
    """How precision, recall and F1 depend on the score threshold, and precision on recall.

    Attributes:
        thresholds: (S,) scores from 0 to 1.
        num_objects: (1 + C,) that could be found.
        hits: (1 + C, S) detections at or above the threshold that found an object; the first row as below.
        found: (1 + C, S) those and the wrong ones.
        precision, recall, f1: (1 + C, S); the first row is of all classes' detections together. NaN where there is no
            detection, no object, or neither.
        recall_steps: (101,) from 0 to 1.
        precision_at_recall: (1 + C, 101), interpolated as COCO does; the first row is the mean over classes. NaN
            without objects.
    """

    thresholds: np.ndarray
    num_objects: np.ndarray
    hits: np.ndarray
    found: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    recall_steps: np.ndarray
    precision_at_recall: np.ndarray


def rates(hits: np.ndarray, found: np.ndarray, num_objects: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1, each (S,), NaN where nothing can be told.

    Args:
        hits: (S,) detections that found an object.
        found: (S,) detections, hits included.
        num_objects: objects that could be found.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / found, hits / np.float64(num_objects), 2 * hits / (found + num_objects)


def best_point(scores: np.ndarray, is_hit: np.ndarray, num_objects: int) -> OperatingPoint:
    """Where F1 is best, of all thresholds that tell detections apart; of equal ones the highest.

    Args:
        scores: (D,) of hits and wrong detections, best first.
        is_hit: (D,) which found an object.
        num_objects: objects that could be found.
    """
    if not len(scores):
        nothing = 0.0 if num_objects else np.nan
        return OperatingPoint(np.nan, np.nan, nothing, nothing)
    # Detections of one score cannot be told apart: a threshold takes all of them or none.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    precision, recall, f1 = rates(np.cumsum(is_hit)[ends], ends + 1, num_objects)
    best = int(np.argmax(f1))
    return OperatingPoint(float(scores[ends[best]]), float(precision[best]), float(recall[best]), float(f1[best]))


def best_points(outcome: Outcome) -> list[OperatingPoint]:
    """1 + C: of all classes' detections together, then of each class."""
    points = []
    for rows, num_objects in groups(outcome):
        points.append(best_point(outcome.scope.scores[rows], outcome.is_hit[rows], num_objects))
    return points


def points_at(outcome: Outcome, score: float) -> list[OperatingPoint]:
    """1 + C: of all classes' detections together, then of each class, at one threshold; NaN: of no detection."""
    points = []
    for rows, num_objects in groups(outcome):
        shown = rows[outcome.scope.scores[rows] >= score]
        hits = np.count_nonzero(outcome.is_hit[shown])
        precision, recall, f1 = rates(np.array(hits), np.array(len(shown)), num_objects)
        points.append(OperatingPoint(score, float(precision), float(recall), float(f1)))
    return points


def groups(outcome: Outcome) -> list[tuple[np.ndarray, int]]:
    """1 + C times: hits and wrong detections, best score first, and the number of objects; all classes come first."""
    scope, counted = outcome.scope, np.flatnonzero(outcome.is_counted)
    everything = counted[np.argsort(-scope.scores[counted], kind="stable")]
    ranking = Ranking.of(scope.labels[counted], scope.scores[counted], scope.num_classes)
    by_class = np.split(counted[ranking.order], ranking.starts[1:-1])
    num_objects = outcome.num_objects
    return [(everything, int(num_objects.sum())), *zip(by_class, num_objects.tolist(), strict=True)]


def make_curves(outcome: Outcome) -> Curves:
    """Of all classes together and of each class."""
    scope, thresholds = outcome.scope, np.linspace(0.0, 1.0, NUM_THRESHOLDS)
    all_hits, all_found, rows = [], [], []
    members_and_objects = groups(outcome)
    for members, num_objects in members_and_objects:
        scores = scope.scores[members]
        found = len(scores) - np.searchsorted(scores[::-1], thresholds, side="left")
        hits = np.concatenate([[0], np.cumsum(outcome.is_hit[members])])[found]
        all_hits.append(hits)
        all_found.append(found)
        rows.append(rates(hits, found, num_objects))
    precision, recall, f1 = (np.stack(values) for values in zip(*rows, strict=True))
    by_class = precision_at_recall(scope.ranking, outcome.is_hit, outcome.is_counted, outcome.num_objects)
    has_objects = outcome.num_objects > 0
    mean = by_class[has_objects].mean(axis=0) if has_objects.any() else np.full(len(RECALL_STEPS), np.nan)
    by_class[~has_objects] = np.nan
    return Curves(
        thresholds=thresholds,
        num_objects=np.array([num_objects for _, num_objects in members_and_objects]),
        hits=np.stack(all_hits),
        found=np.stack(all_found),
        precision=precision,
        recall=recall,
        f1=f1,
        recall_steps=RECALL_STEPS,
        precision_at_recall=np.concatenate([mean[None], by_class]),
    )
