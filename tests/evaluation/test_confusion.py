"""The confusion matrix, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.evaluation.confusion import confusion_matrix
from yolo_lite.evaluation.detections import DetectionTable, Scope
from yolo_lite.evaluation.matching import find_pairs, match_scope


def confusion_of(table: DetectionTable, index: Any, score: float = 0.0) -> np.ndarray:
    """At IoU 0.5."""
    scope = Scope.of(table, index)
    pairs = find_pairs(scope, 0.1, of_one_class=False)
    return confusion_matrix(match_scope(scope, pairs, 0.5), pairs, score)


def test_by_hand(index_of: Any, objects_world: Any, table_of: Any) -> None:
    objects = [
        (0, 0, (0, 0, 100, 100)),
        (0, 1, (200, 0, 100, 100)),
        (0, 2, (400, 0, 100, 100)),
        (1, 0, (0, 0, 100, 100)),
        (1, -3, (300, 300, 200, 200)),  # a crowd of class 2
    ]
    rows = [
        (0, 0, (5, 0, 100, 100), 0.9),  # right
        (0, 2, (200, 5, 100, 100), 0.8),  # class 1 taken for class 2
        (0, 0, (0, 300, 50, 50), 0.7),  # background taken for class 0
        (0, 2, (400, 0, 100, 100), 0.1),  # right, but below the threshold
        (1, 1, (0, 0, 100, 90), 0.9),  # nearer to the object than the next, though its class is wrong
        (1, 0, (0, 0, 100, 70), 0.95),
        (1, 2, (310, 310, 50, 50), 0.9),  # on the crowd: left out
        (1, 1, (310, 310, 50, 50), 0.9),  # on a crowd of another class: background
    ]
    expected = np.zeros((4, 4), int)
    expected[0, 0], expected[1, 2], expected[3, 0], expected[2, 3], expected[0, 1] = 1, 1, 2, 1, 1
    expected[3, 1] = 1
    matrix = confusion_of(table_of(rows, 2), index_of(objects_world(objects, 2)), 0.5)
    assert matrix.tolist() == expected.tolist()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), score=st.sampled_from([0.0, 0.5, 1.1]))
def test_rows_are_objects_and_columns_detections(index_of: Any, random_world: Any, seed: int, score: float) -> None:
    content, table = random_world(seed, crowds=0)
    index = index_of(content)
    matrix = confusion_of(table, index, score)
    objects = np.bincount(index.labels, minlength=3)
    detections = np.bincount(table.labels[table.scores >= np.float32(score)], minlength=3)
    assert matrix[:3].sum(axis=1).tolist() == objects.tolist()
    assert matrix[:, :3].sum(axis=0).tolist() == detections.tolist()
    assert matrix[3, 3] == 0


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_two_objects_in_one_box(order: list[int], index_of: Any, objects_world: Any, table_of: Any) -> None:
    """Of equal IoU the right class comes first, whatever stands first."""
    box = (0, 0, 50, 50)
    index = index_of(objects_world([(0, label, box) for label in order]))
    assert confusion_of(table_of([(0, 0, box, 0.5), (0, 1, box, 0.9)]), index).trace() == 2
