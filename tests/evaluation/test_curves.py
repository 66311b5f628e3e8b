"""Precision, recall and F1 over thresholds, and precision over recall."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.evaluation.curves import best_point, best_points, make_curves, points_at
from yolo_lite.evaluation.detections import DetectionTable, Scope
from yolo_lite.evaluation.matching import Outcome, find_pairs, match_scope


def outcome_of(table: DetectionTable, index: Any) -> Outcome:
    """At IoU 0.5."""
    scope = Scope.of(table, index)
    return match_scope(scope, find_pairs(scope, 0.5), 0.5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_precision_at_recall_is_cocos(
    index_of: Any, random_world: Any, coco_results: Any, judge: Any, seed: int
) -> None:
    content, table = random_world(seed)
    index = index_of(content)
    theirs = judge(content, coco_results(table, index)).eval["precision"][0, :, :, 0, 2]  # recall, class
    curves = make_curves(outcome_of(table, index))
    assert curves.recall_steps == pytest.approx(np.linspace(0, 1, 101))
    expected = np.where(theirs > -1, theirs, np.nan).T
    assert np.allclose(curves.precision_at_recall[1:], expected, atol=1e-9, equal_nan=True)
    told = expected[~np.isnan(expected[:, 0])]
    if len(told):
        assert curves.precision_at_recall[0] == pytest.approx(told.mean(axis=0))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([1, 7, 1000]))
def test_curves_count_what_scores_at_least_the_threshold(
    index_of: Any, random_world: Any, seed: int, levels: int
) -> None:
    content, table = random_world(seed, num_classes=2, levels=levels)
    outcome = outcome_of(table, index_of(content))
    curves = make_curves(outcome)
    for row, member in enumerate((outcome.scope.labels >= 0, *(outcome.scope.labels == c for c in range(2)))):
        objects = outcome.num_objects.sum() if row == 0 else outcome.num_objects[row - 1]
        for s in (0, 100, 333, 800, 1000):
            shown = member & outcome.is_counted & (outcome.scope.scores >= curves.thresholds[s])
            hits, found = int((shown & outcome.is_hit).sum()), int(shown.sum())
            expected = [hits / found if found else np.nan, hits / objects if objects else np.nan]
            expected.append(2 * hits / (found + objects) if found + objects else np.nan)
            got = [curves.precision[row, s], curves.recall[row, s], curves.f1[row, s]]
            assert got == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 1000))
def test_points_are_those_of_the_curves(index_of: Any, random_world: Any, seed: int, step: int) -> None:
    content, table = random_world(seed)
    outcome = outcome_of(table, index_of(content))
    curves, best = make_curves(outcome), best_points(outcome)[0]
    for row, point in enumerate(points_at(outcome, float(curves.thresholds[step]))):
        expected = [values[row, step] for values in (curves.precision, curves.recall, curves.f1)]
        assert [point.precision, point.recall, point.f1] == pytest.approx(expected, nan_ok=True)
    assert str(points_at(outcome, best.score)[0]) == str(best)  # NaN where there are no detections


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=20), extra=st.integers(0, 5))
def test_the_best_point_is_the_best_of_all_thresholds(rows: list[tuple[int, bool]], extra: int) -> None:
    rows = sorted(rows, reverse=True)
    scores, hits = np.array([row[0] / 8 for row in rows], np.float32), np.array([row[1] for row in rows])
    objects = int(hits.sum()) + extra
    point = best_point(scores, hits, objects)
    every = {float(s): 2 * hits[scores >= s].sum() / ((scores >= s).sum() + objects) for s in scores}
    assert point.f1 == pytest.approx(max(every.values()))
    assert point.score == max(s for s, f1 in every.items() if f1 == max(every.values()))
    shown = scores >= point.score
    assert point.precision == pytest.approx(hits[shown].mean())
    assert point.recall == pytest.approx(hits[shown].sum() / objects, nan_ok=True) if objects else True


def test_without_detections_or_objects(index_of: Any, objects_world: Any, table_of: Any) -> None:
    index = index_of(objects_world([(0, 0, (10, 10, 50, 50))]))
    every, first, second, _ = best_points(outcome_of(table_of([]), index))
    assert np.isnan(every.score) and np.isnan(every.precision) and every.recall == every.f1 == first.f1 == 0
    assert np.isnan(second.f1) and np.isnan(second.recall)
    curves = make_curves(outcome_of(table_of([(0, 1, (10, 10, 50, 50), 0.5)]), index))
    assert curves.precision[2, 0] == 0 and np.isnan(curves.recall[2, 0]) and np.isnan(curves.precision[2, -1])
    assert np.isnan(curves.precision_at_recall[2]).all() and not curves.precision_at_recall[1].any()
