"""What kind of error costs how much (TIDE, arXiv:2008.08115).

Notation: C classes, D detections, M objects, P pairs. Crowds are no objects here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from yolo_lite.evaluation.coco_scores import precision_at_recall
from yolo_lite.evaluation.detections import Ranking
from yolo_lite.evaluation.matching import UNMATCHED, Outcome, Pairs

ErrorType = Literal["localisation", "class", "both", "duplicate", "background", "missed"]
ERROR_TYPES: tuple[ErrorType, ...] = ("localisation", "class", "both", "duplicate", "background", "missed")
LOCALISATION, CLASS, BOTH, DUPLICATE, BACKGROUND = range(5)
NO_ERROR = -1
# What overlaps less has nothing to do with the object, as in the paper.
BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class Errors:
    """Why detections above a threshold are wrong and which objects were not found (TIDE, arXiv:2008.08115).

    Attributes:
        counts: by type, at the overall best threshold. Missed are the objects that no detection found, nor would have
            found had its box or its class been right.
        gains: by type, what AP at IoU 0.50 would gain if these were mended (over all scores); NaN without objects, and
            for missed ones where nothing else is left.
    """

    counts: dict[ErrorType, int]
    gains: dict[ErrorType, float]


@dataclass(frozen=True)
class Blame:
    """The error of each detection.

    Attributes:
        types: (D,) places in `ERROR_TYPES`; `NO_ERROR` for hits and ignored ones.
        objects: (D,) the object that a localisation or class error was meant for, or `UNMATCHED`.
    """

    types: np.ndarray
    objects: np.ndarray


def best_overlaps(pairs: Pairs, num_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) highest IoU of each detection, 0 without one, and its object.

    Args:
        pairs: by detection, best IoU first.
        num_detections: D.
    """
    first = np.flatnonzero(np.diff(pairs.detections, prepend=-1))
    ious, objects = np.zeros(num_detections), np.full(num_detections, UNMATCHED)
    ious[pairs.detections[first]] = pairs.ious[first]
    objects[pairs.detections[first]] = pairs.objects[first]
    return ious, objects


def find_errors(outcome: Outcome, pairs: Pairs) -> Blame:
    """The first that fits, in the order of the paper's implementation: localisation (0.1 <= best IoU with its class
    < 0.5), class (another class's object at 0.5), duplicate (its class's object at 0.5, which a better detection
    has), background (no object at 0.1), and both, of box and class, for the rest.

    Args:
        outcome: of COCO's matching.
        pairs: of all classes, with an IoU of at least `BACKGROUND_IOU`.
    """
    scope = outcome.scope
    threshold = min(outcome.iou, 1 - 1e-10)
    is_wrong = outcome.is_counted & ~outcome.is_hit
    pairs = pairs.select(is_wrong[pairs.detections] & ~scope.is_crowd[pairs.objects])
    is_own = scope.labels[pairs.detections] == scope.object_labels[pairs.objects]
    own, own_objects = best_overlaps(pairs.select(is_own), len(scope))
    other, other_objects = best_overlaps(pairs.select(~is_own), len(scope))
    conditions = [
        ~is_wrong,
        (own >= BACKGROUND_IOU) & (own < threshold),
        other >= threshold,
        own >= threshold,
        np.maximum(own, other) < BACKGROUND_IOU,
    ]
    types = np.select(conditions, [NO_ERROR, LOCALISATION, CLASS, DUPLICATE, BACKGROUND], BOTH)
    objects = np.select([types == LOCALISATION, types == CLASS], [own_objects, other_objects], UNMATCHED)
    return Blame(types, objects)


def analyse_errors(outcome: Outcome, blame: Blame, score: float) -> Errors:
    """Count the errors from `score` on, and what each type costs.

    Args:
        outcome: of COCO's matching.
        blame: of the same detections.
        score: the threshold of the counts; NaN where there are no detections.
    """
    shown = outcome.scope.scores >= score
    counts = np.bincount(blame.types[shown & (blame.types != NO_ERROR)], minlength=len(ERROR_TYPES))
    counts[ERROR_TYPES.index("missed")] = missed_objects(outcome, blame, shown).sum()
    before = average_precision(outcome)
    gains = {name: mended_precision(outcome, blame, name) - before for name in ERROR_TYPES}
    return Errors(dict(zip(ERROR_TYPES, counts.tolist(), strict=True)), gains)


def missed_objects(outcome: Outcome, blame: Blame, shown: np.ndarray) -> np.ndarray:
    """(M,) objects that none of the detections `shown`, (D,), found or nearly found."""
    is_missed = ~outcome.scope.is_crowd
    is_missed[outcome.matches[shown & outcome.is_hit]] = False
    is_missed[blame.objects[shown & (blame.objects != UNMATCHED)]] = False
    return is_missed


def mended_precision(outcome: Outcome, blame: Blame, name: ErrorType) -> float:
    """AP after the oracle that mends one type of error.

    A box or a class is put right, and of all detections that then have the same object the best stays; duplicates,
    background and what is wrong in both ways are taken away; missed objects are not asked for, as in the paper.
    """
    scope = outcome.scope
    if name == "missed":
        is_missed = missed_objects(outcome, blame, np.ones(len(scope), dtype=bool))
        missed = np.bincount(scope.object_labels[is_missed], minlength=scope.num_classes)
        return average_precision(outcome, num_objects=outcome.num_objects - missed)
    is_meant = blame.types == ERROR_TYPES.index(name)
    if name not in ("localisation", "class"):
        return average_precision(outcome, is_counted=outcome.is_counted & ~is_meant)
    owned = np.where(is_meant, blame.objects, np.where(outcome.is_hit, outcome.matches, UNMATCHED))
    rivals = np.flatnonzero(owned != UNMATCHED)
    rivals = rivals[np.argsort(-scope.scores[rivals], kind="stable")]
    _, best = np.unique(owned[rivals], return_index=True)
    is_hit = np.zeros(len(scope), dtype=bool)
    is_hit[rivals[best]] = True
    labels = scope.labels.copy()
    labels[is_meant] = scope.object_labels[owned[is_meant]]
    is_counted = outcome.is_counted & (is_hit | (owned == UNMATCHED))
    return average_precision(outcome, is_hit, is_counted, labels=labels)


def average_precision(
    outcome: Outcome,
    is_hit: np.ndarray | None = None,
    is_counted: np.ndarray | None = None,
    num_objects: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> float:
    """COCO's AP at the outcome's IoU, with anything of it exchanged; NaN without objects."""
    scope = outcome.scope
    ranking = scope.ranking if labels is None else Ranking.of(labels, scope.scores, scope.num_classes)
    num_objects = outcome.num_objects if num_objects is None else num_objects
    is_hit = outcome.is_hit if is_hit is None else is_hit
    is_counted = outcome.is_counted if is_counted is None else is_counted
    by_class = precision_at_recall(ranking, is_hit, is_counted, num_objects)
    valid = num_objects > 0
    return float(by_class[valid].mean()) if valid.any() else float("nan")
