"""Which class is taken for which. Notation: C classes, D detections, M objects."""

from __future__ import annotations

import numpy as np

from yolo_lite.evaluation.matching import UNMATCHED, Outcome, Pairs, match_by_iou


def confusion_matrix(outcome: Outcome, pairs: Pairs, score: float) -> np.ndarray:
    """(C + 1, C + 1) counts, rows truth, columns prediction, the last of each background.

    Classes play no part in the matching: of all pairs with an IoU of at least that of the outcome, the one with the
    highest is taken, then the highest of those left. Of equal ones first those of the right class, then the better
    score. Detections that lie on a crowd of their class and found nothing else are left out.

    Args:
        outcome: of COCO's matching.
        pairs: of all classes, with an IoU of at least that of the outcome.
        score: the threshold.
    """
    scope, num_classes = outcome.scope, outcome.scope.num_classes
    shown = scope.scores >= score
    pairs = pairs.select(
        shown[pairs.detections] & ~scope.is_crowd[pairs.objects] & (pairs.ious >= min(outcome.iou, 1 - 1e-10))
    )
    is_wrong = scope.labels[pairs.detections] != scope.object_labels[pairs.objects]
    order = np.lexsort((-scope.scores[pairs.detections], is_wrong, -pairs.ious))
    priorities = np.empty(len(pairs), dtype=np.int64)
    priorities[order] = np.arange(len(pairs))
    matches = match_by_iou(pairs, priorities, len(scope), len(scope.object_rows))
    is_matched = matches != UNMATCHED
    false = shown & ~is_matched & ~outcome.on_crowd
    is_missed = ~scope.is_crowd
    is_missed[matches[is_matched]] = False
    truth = [scope.object_labels[matches[is_matched]], np.full(int(false.sum()), num_classes)]
    predicted = [scope.labels[is_matched], scope.labels[false]]
    truth.append(scope.object_labels[is_missed])
    predicted.append(np.full(int(is_missed.sum()), num_classes))
    cells = np.concatenate(truth) * (num_classes + 1) + np.concatenate(predicted)
    return np.bincount(cells, minlength=(num_classes + 1) ** 2).reshape(num_classes + 1, num_classes + 1)
