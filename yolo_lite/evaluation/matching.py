"""Which detection found which object, for all images at once.

Notation: D detections, M objects, P pairs of a detection and an object of the same image.

COCO's matching lets the detections choose one after another, best score first. The same comes out when all choose at
once, each object keeps the best that wants it, and those turned away choose again (deferred acceptance, Gale and
Shapley 1962; with one order of the detections for all objects its only stable result is that of choosing in turn). It
takes as many rounds as the longest chain of refusals, four to ten as a rule, instead of a step for every detection.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from yolo_lite.evaluation.detections import Scope

# Pairs that are looked at together: 100 MiB at most.
CHUNK = 1_000_000
UNMATCHED = -1


@dataclass(frozen=True)
class Pairs:
    """Detections and objects of one image that overlap, by detection, and for each the one to be preferred first.

    Attributes:
        detections: (P,) places in the scope.
        objects: (P,) places in the scope.
        ious: (P,) with crowds: the share of the detection that lies in it.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray

    def __len__(self) -> int:
        return len(self.ious)

    def select(self, keep: np.ndarray) -> Pairs:
        """Some of them, by mask or position."""
        return Pairs(self.detections[keep], self.objects[keep], self.ious[keep])

    def preferring(self, is_ignored: np.ndarray) -> Pairs:
        """Ordered so that a detection chooses among the objects that are ignored, (M,), only after all others."""
        return self.select(np.argsort(self.detections * 2 + is_ignored[self.objects], kind="stable"))


@dataclass(frozen=True)
class Outcome:
    """What COCO's matching says of each detection.

    Attributes:
        scope: what was matched.
        iou: from which on a detection is right.
        matches: (D,) the object of each detection, or `UNMATCHED`.
        is_hit: (D,) detections that found an object.
        on_crowd: (D,) detections that found none but lie on a crowd, and are ignored.
        num_objects: (C,) that could be found.
    """

    scope: Scope
    iou: float
    matches: np.ndarray
    is_hit: np.ndarray
    on_crowd: np.ndarray
    num_objects: np.ndarray

    @property
    def is_counted(self) -> np.ndarray:
        """(D,) hits and wrong detections."""
        return ~self.on_crowd


def find_pairs(scope: Scope, min_iou: float, of_one_class: bool = True) -> Pairs:
    """Pairs that overlap by at least `min_iou` > 0, by detection, best IoU first; of equal ones the later object, as
    in COCO.

    Args:
        scope: what is scored.
        min_iou: of a pair.
        of_one_class: no pairs of different classes.
    """
    keys, object_keys = scope.images, scope.object_images
    if of_one_class:
        keys = keys * scope.num_classes + scope.labels
        object_keys = object_keys * scope.num_classes + scope.object_labels
    order = np.argsort(object_keys, kind="stable")
    sorted_keys = object_keys[order]
    starts = np.searchsorted(sorted_keys, keys, side="left")
    counts = np.searchsorted(sorted_keys, keys, side="right") - starts
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.unique(np.searchsorted(ends, np.arange(0, total + CHUNK, CHUNK), side="left"))
    cuts = np.unique(np.concatenate([[0], cuts, [len(keys)]]))
    found = []
    for low, high in pairwise(cuts):
        here = counts[low:high]
        detections = np.repeat(np.arange(low, high), here)
        within = np.arange(len(detections)) - np.repeat(np.cumsum(here) - here, here)
        objects = order[np.repeat(starts[low:high], here) + within]
        crowd = scope.is_crowd[objects]
        ious = pair_ious(scope.boxes_xywh, scope.object_boxes_xywh, detections, objects, crowd)
        keep = ious >= min_iou
        found.append((detections[keep], objects[keep], ious[keep]))
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    pairs = Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    return pairs.select(np.lexsort((-pairs.objects, -pairs.ious, pairs.detections)))


def pair_ious(
    boxes_xywh: np.ndarray, objects_xywh: np.ndarray, detections: np.ndarray, objects: np.ndarray, is_crowd: np.ndarray
) -> np.ndarray:
    """(P,) IoU of boxes (D, 4) and (M, 4) at the places given, computed in pycocotools' order of operations.

    Args:
        boxes_xywh: (D, 4) float64.
        objects_xywh: (M, 4) float64.
        detections: (P,) rows of `boxes_xywh`.
        objects: (P,) rows of `objects_xywh`.
        is_crowd: (P,) pairs of which the share of the detection is meant.
    """
    x, y, w, h = (column[detections] for column in boxes_xywh.T)
    gx, gy, gw, gh = (column[objects] for column in objects_xywh.T)
    width = np.minimum(x + w, gx + gw) - np.maximum(x, gx)
    height = np.minimum(y + h, gy + gh) - np.maximum(y, gy)
    overlap = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = w * h
    union = np.where(is_crowd, area, area + gw * gh - overlap)
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def match_scope(scope: Scope, pairs: Pairs, iou: float) -> Outcome:
    """COCO's matching of objects of all sizes.

    Args:
        scope: what is scored.
        pairs: with an IoU of at least `iou`, of one class or of all.
        iou: the threshold.
    """
    pairs = pairs.select(scope.labels[pairs.detections] == scope.object_labels[pairs.objects])
    matches = match_by_score(scope, pairs.preferring(scope.is_crowd), iou)
    is_matched = matches != UNMATCHED
    on_crowd = is_matched.copy()
    on_crowd[is_matched] = scope.is_crowd[matches[is_matched]]
    num_objects = np.bincount(scope.object_labels[~scope.is_crowd], minlength=scope.num_classes)
    return Outcome(scope, iou, matches, is_matched & ~on_crowd, on_crowd, num_objects)


def match_by_score(scope: Scope, pairs: Pairs, threshold: float) -> np.ndarray:
    """COCO's matching: by score, each detection takes the first of its objects that is left; crowds are never full.

    Args:
        scope: what is scored.
        pairs: of one class, those of a detection in order of preference.
        threshold: of the IoU.

    Returns:
        (D,) the object of each detection, or `UNMATCHED`.
    """
    pairs = pairs.select(pairs.ious >= min(threshold, 1 - 1e-10))
    # Detections of an image and a class stand in the scope by score, so their places say who comes first.
    return assign(pairs, pairs.detections, scope.is_crowd, len(scope))


def match_by_iou(pairs: Pairs, priorities: np.ndarray, num_detections: int, num_objects: int) -> np.ndarray:
    """Greedy matching by pairs: the first of all pairs is taken, then the first of those left, and so on.

    Args:
        pairs: in any order.
        priorities: (P,) all different, the first one lowest.
        num_detections, num_objects: D and M.

    Returns:
        (D,) the object of each detection, or `UNMATCHED`.
    """
    order = np.lexsort((priorities, pairs.detections))
    return assign(pairs.select(order), priorities[order], np.zeros(num_objects, dtype=bool), num_detections)


def assign(pairs: Pairs, priorities: np.ndarray, is_shared: np.ndarray, num_detections: int) -> np.ndarray:
    """Deferred acceptance: detections ask for the objects of their pairs in order, objects keep the best that asks.

    Args:
        pairs: by detection, in order of preference.
        priorities: (P,) of the detection with the object; the lowest wins. Different for all that want one object.
        is_shared: (M,) objects that take everybody.
        num_detections: D.

    Returns:
        (D,) the object of each detection, or `UNMATCHED`.
    """
    starts = np.flatnonzero(np.diff(pairs.detections, prepend=-1))
    ends = np.append(starts[1:], len(pairs)) if len(starts) else starts
    asked = starts.copy()  # of each detection with pairs: the pair that it asks for or has
    asking = np.arange(len(starts))
    holders = np.full(len(is_shared), UNMATCHED)
    best = np.full(len(is_shared), np.iinfo(np.int64).max)
    while len(asking):
        asking = asking[~is_shared[pairs.objects[asked[asking]]]]
        objects, own = pairs.objects[asked[asking]], priorities[asked[asking]]
        np.minimum.at(best, objects, own)
        wins = best[objects] == own
        sent_away = holders[objects[wins]]
        holders[objects[wins]] = asking[wins]
        again = np.concatenate([asking[~wins], sent_away[sent_away != UNMATCHED]])
        asked[again] += 1
        asking = again[asked[again] < ends[again]]
    matched = asked < ends
    matches = np.full(num_detections, UNMATCHED)
    matches[pairs.detections[starts[matched]]] = pairs.objects[asked[matched]]
    return matches
