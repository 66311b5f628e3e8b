"""Matching all at once against matching one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.evaluation import matching
from yolo_lite.evaluation.coco_scores import precision_at_recall, score_detections
from yolo_lite.evaluation.detections import Scope, positions_of, ranks_in_runs
from yolo_lite.evaluation.matching import UNMATCHED, Pairs, find_pairs, match_by_iou, match_scope

seeds = st.integers(0, 2**32 - 1)


def one_after_another(scope: Scope, threshold: float) -> list[int]:
    """COCO's matching as its paper says it."""
    taken: set[int] = set()
    matches = []
    for x, y, w, h, image, label in zip(*scope.boxes_xywh.T, scope.images, scope.labels, strict=True):
        best, best_key = UNMATCHED, (False, threshold)
        for m in np.flatnonzero((scope.object_images == image) & (scope.object_labels == label)):
            gx, gy, gw, gh = scope.object_boxes_xywh[m]
            width, height = min(x + w, gx + gw) - max(x, gx), min(y + h, gy + gh) - max(y, gy)
            overlap = max(width, 0) * max(height, 0)
            iou = overlap / (w * h if scope.is_crowd[m] else w * h + gw * gh - overlap)
            key = (not scope.is_crowd[m], iou)
            if m not in taken and iou >= threshold and key >= best_key:
                best, best_key = int(m), key
        if best != UNMATCHED and not scope.is_crowd[best]:
            taken.add(best)
        matches.append(best)
    return matches


@settings(max_examples=60, deadline=None)
@given(seed=seeds, threshold=st.sampled_from([0.3, 0.5, 0.75]), levels=st.sampled_from([1, 4, 1000]))
def test_all_at_once_is_one_after_another(
    index_of: Any, random_world: Any, seed: int, threshold: float, levels: int
) -> None:
    content, table = random_world(seed, num_images=3, num_classes=2, per_image=8, detections=25, levels=levels)
    scope = Scope.of(table, index_of(content))
    for of_one_class in (True, False):
        outcome = match_scope(scope, find_pairs(scope, 0.1, of_one_class), threshold)
        assert outcome.matches.tolist() == one_after_another(scope, threshold)


def test_a_chain_of_refusals() -> None:
    """Each detection prefers the object that a better one takes: the last of n is sent away n - 1 times."""
    n = 40
    detections, objects = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    pairs = Pairs(detections, objects, np.ones(n * n))
    assert matching.assign(pairs, detections, np.zeros(n, bool), n).tolist() == list(range(n))


@settings(max_examples=60, deadline=None)
@given(seed=seeds, count=st.integers(0, 60))
def test_greedy_by_pairs(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.choice(100, count, replace=False)
    pairs = Pairs(cells // 10, cells % 10, rng.random(count))
    priorities = rng.permutation(count)
    expected = np.full(10, UNMATCHED)
    for p in np.argsort(priorities):
        d, m = pairs.detections[p], pairs.objects[p]
        if expected[d] == UNMATCHED and m not in expected:
            expected[d] = m
    assert match_by_iou(pairs, priorities, 10, 10).tolist() == expected.tolist()


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_chunks_change_nothing(chunk: int, index_of: Any, random_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content, table = random_world(1, per_image=10)
    scope = Scope.of(table, index_of(content))
    whole = find_pairs(scope, 0.1, of_one_class=False)
    monkeypatch.setattr(matching, "CHUNK", chunk)
    parts = find_pairs(scope, 0.1, of_one_class=False)
    assert len(whole) > 40
    for name in ("detections", "objects", "ious"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_ap_50_is_cocos(index_of: Any, random_world: Any, seed: int) -> None:
    content, table = random_world(seed)
    index = index_of(content)
    scope = Scope.of(table, index)
    outcome = match_scope(scope, find_pairs(scope, 0.5), 0.5)
    curves = precision_at_recall(scope.ranking, outcome.is_hit, outcome.is_counted, outcome.num_objects)
    assert curves.mean(axis=1).tolist() == pytest.approx(list(score_detections(table, index).per_class_50.values()))


def test_detections_of_unknown_or_unseen_images_are_left_out(index_of: Any, random_world: Any) -> None:
    content, table = random_world(2, num_images=6)
    index = index_of(content)
    table.image_ids[:3] = 999
    table.seen = table.seen[:4]
    scope = Scope.of(table, index)
    assert set(index.image_ids[scope.images]) <= set(table.seen)
    assert sorted(scope.rows) == np.flatnonzero(np.isin(table.image_ids, table.seen)).tolist()


def test_positions_and_ranks() -> None:
    assert positions_of(np.array([5, 9, 1, 7]), np.array([7, 1, 5])).tolist() == [2, -1, 1, 0]
    assert positions_of(np.array([5]), np.zeros(0, np.int64)).tolist() == [-1]
    assert ranks_in_runs(np.array([4, 4, 2, 9, 9, 9, 2])).tolist() == [0, 1, 0, 0, 1, 2, 0]
