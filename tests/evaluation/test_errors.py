"""Kinds of error: one of each planted, and none where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.evaluation.detections import DetectionTable, Scope
from yolo_lite.evaluation.errors import (
    ERROR_TYPES,
    NO_ERROR,
    Errors,
    analyse_errors,
    average_precision,
    find_errors,
)
from yolo_lite.evaluation.matching import Outcome, find_pairs, match_scope

FOUND, SHIFTED, CONFUSED, LOST = (0, 0, 100, 100), (200, 0, 100, 100), (400, 0, 100, 100), (0, 400, 100, 100)
# An object of class 0 for each, and what is planted on it.
PLANTED = {
    "": (0, FOUND, 0.9),
    "localisation": (0, (260, 0, 100, 100), 0.8),  # IoU 0.25 with an object of its class
    "class": (1, CONFUSED, 0.7),
    "both": (1, (60, 400, 100, 100), 0.6),  # IoU 0.25 with an object of another class
    "duplicate": (0, (5, 0, 100, 100), 0.5),
    "background": (0, (500, 500, 60, 60), 0.4),
}


def errors_of(table: DetectionTable, index: Any, score: float = 0.0) -> tuple[Outcome, list[str], Errors]:
    """Matching, the names of each detection's error in the order of the table, and the numbers."""
    scope = Scope.of(table, index)
    pairs = find_pairs(scope, 0.1, of_one_class=False)
    outcome = match_scope(scope, pairs, 0.5)
    blame = find_errors(outcome, pairs)
    names = [""] * len(table)
    for row, type_ in zip(scope.rows, blame.types, strict=True):
        names[row] = "" if type_ == NO_ERROR else ERROR_TYPES[type_]
    return outcome, names, analyse_errors(outcome, blame, score)


@pytest.fixture
def planted(index_of: Any, objects_world: Any, table_of: Any) -> tuple[DetectionTable, Any]:
    """An error of each type, on two images; the objects of class 1 lie on a third one, found."""
    objects = [(image, 0, box) for image in (0, 1) for box in (FOUND, SHIFTED, CONFUSED, LOST)]
    index = index_of(objects_world([*objects, (2, 1, FOUND)], 3, categories=(1, 2)))
    rows = [(image, label, box, score) for image in (0, 1) for label, box, score in PLANTED.values()]
    return table_of([*rows, (2, 1, FOUND, 0.95)], 3), index


def test_one_of_each(planted: tuple[DetectionTable, Any]) -> None:
    _, names, errors = errors_of(*planted)
    assert names == [*PLANTED, *PLANTED, ""]
    # The object beside which a box of another class lies is the only one that nothing else was meant for.
    assert errors.counts == dict.fromkeys(ERROR_TYPES, 2)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((30, 0, 100, 100), "localisation"),  # IoU 0.43 with its class, 0.54 with the other: the first of both
        ((45, 0, 100, 100), "localisation"),  # 0.29 and 0.38: not wrong in both ways
        ((12, 0, 100, 100), "class"),  # 0.60 with its class, which a better one has, and 0.79 with the other
        ((0, 88, 100, 100), "background"),  # 0.06 with its class, 0.05 with the other
        ((0, 78, 100, 100), "localisation"),  # 0.12 with its class
    ],
)
def test_the_first_type_that_fits(
    box: tuple[float, ...], expected: str, index_of: Any, objects_world: Any, table_of: Any
) -> None:
    """Beside a found object of class 0 and one of class 1, of which most boxes overlap both."""
    own, other = (-10, 0, 100, 100), (0, 0, 100, 100)
    index = index_of(objects_world([(0, 0, own), (0, 1, other)], categories=(1, 2)))
    _, names, errors = errors_of(table_of([(0, 0, own, 0.9), (0, 1, other, 0.9), (0, 0, box, 0.8)]), index)
    assert names == ["", "", expected]
    assert errors.counts == {**dict.fromkeys(ERROR_TYPES, 0), expected: 1}


@pytest.mark.parametrize(
    "score, expected", [(0.45, [2, 2, 2, 2, 0, 2]), (0.75, [2, 0, 0, 0, 0, 4]), (0.91, [0] * 5 + [8])]
)
def test_counts_are_of_the_threshold(planted: tuple[DetectionTable, Any], score: float, expected: list[int]) -> None:
    """Below it an object that a class error was meant for is missed."""
    assert list(errors_of(*planted, score)[2].counts.values()) == expected


def ap(precision: list[float], objects: int) -> float:
    """Mean over 101 recall steps of the best precision at the recall of the k-th hit or a later one."""
    steps = np.linspace(0, 1, 101)
    return float(np.mean([max([p for k, p in enumerate(precision, 1) if k / objects >= r], default=0) for r in steps]))


def test_gains_by_hand(planted: tuple[DetectionTable, Any]) -> None:
    """Class 0: 8 objects, scores 0.9 0.9 right, then two each of 0.8, 0.5 and 0.4 wrong; class 1: 1 object, right
    at 0.95, then two each of 0.7 and 0.6 wrong."""
    outcome, _, errors = errors_of(*planted)
    before = (ap([1, 1], 8) + 1) / 2
    assert average_precision(outcome) == pytest.approx(before)
    mended = {
        "localisation": (ap([1, 1, 1, 1], 8) + 1) / 2,
        # 0.9 0.9 right, 0.8 0.8 wrong, 0.7 0.7 right.
        "class": (ap([1, 1, 3 / 5, 4 / 6], 8) + 1) / 2,
        "missed": (ap([1, 1], 6) + 1) / 2,
    }
    for name in ERROR_TYPES:
        assert errors.gains[name] == pytest.approx(mended.get(name, before) - before), name


def test_taking_wrong_ones_away_gains(index_of: Any, objects_world: Any, table_of: Any) -> None:
    """Before the hit one wrong detection each: without it precision 1/1 instead of 1/2."""
    index = index_of(objects_world([(0, 0, FOUND), (0, 1, SHIFTED)], categories=(1, 2)))
    hits = [(0, 0, FOUND, 0.5), (0, 1, SHIFTED, 0.9)]
    for name, wrong in {
        "background": (0, 0, (500, 500, 50, 50), 0.8),
        "both": (0, 0, (260, 0, 100, 100), 0.8),
    }.items():
        gains = errors_of(table_of([*hits, wrong]), index)[2].gains
        assert gains == pytest.approx({**dict.fromkeys(ERROR_TYPES, 0), name: 0.25}), name


def test_of_what_is_put_right_the_best_stays(index_of: Any, objects_world: Any, table_of: Any) -> None:
    """A hit at 0.5 and a box at 0.8 beside the same object: put right, that one is the hit, and no third is wrong."""
    index = index_of(objects_world([(0, 0, FOUND)], categories=(1,)))
    rows = [(0, 0, FOUND, 0.5), (0, 0, (60, 0, 100, 100), 0.8), (0, 0, (500, 500, 50, 50), 0.6)]
    _, names, errors = errors_of(table_of(rows), index)
    assert names == ["", "localisation", "background"]
    # Precision at the only recall: 1/3; mended 1; without the background 1/2.
    assert errors.gains["localisation"] == pytest.approx(2 / 3)
    assert errors.gains["background"] == pytest.approx(1 / 6)


def test_crowds_are_no_error(index_of: Any, objects_world: Any, table_of: Any) -> None:
    """On a crowd of its class a detection is ignored; on one of another class it is background."""
    index = index_of(objects_world([(0, 0, FOUND), (0, -1, (300, 300, 200, 200))]))
    rows = [(0, 0, FOUND, 0.9), (0, 0, (310, 310, 50, 50), 0.8), (0, 1, (310, 310, 50, 50), 0.7)]
    _, names, errors = errors_of(table_of(rows), index)
    assert names == ["", "", "background"]
    assert errors.counts == {**dict.fromkeys(ERROR_TYPES, 0), "background": 1}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_wrong_detection_has_one_type(index_of: Any, random_world: Any, seed: int) -> None:
    content, table = random_world(seed)
    outcome, names, errors = errors_of(table, index_of(content))
    wrong = int((outcome.is_counted & ~outcome.is_hit).sum())
    assert sum(name != "" for name in names) == wrong
    assert sum(errors.counts.values()) - errors.counts["missed"] == wrong
    for name in ("both", "duplicate", "background"):  # fewer wrong ones never cost anything
        assert np.isnan(errors.gains[name]) or errors.gains[name] >= -1e-12
    assert errors.counts["missed"] <= outcome.num_objects.sum() - outcome.is_hit.sum()


def test_nothing_found(index_of: Any, objects_world: Any, table_of: Any) -> None:
    outcome, _, errors = errors_of(table_of([]), index_of(objects_world([(0, 0, FOUND)])))
    assert errors.counts == {**dict.fromkeys(ERROR_TYPES, 0), "missed": 1}
    assert average_precision(outcome) == 0 and errors.gains["background"] == 0
