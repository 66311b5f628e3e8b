"""Everything together: parts that must agree, and JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.evaluation.analysis import analyse, to_json
from yolo_lite.evaluation.coco_scores import score_detections
from yolo_lite.evaluation.detections import DetectionTable


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(1, 4))
def test_the_truth_has_no_errors(index_of: Any, random_world: Any, seed: int, num_classes: int) -> None:
    index = index_of(random_world(seed, num_classes=num_classes, crowds=0)[0])
    owners = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    boxes = index.boxes_xywh
    table = DetectionTable(
        image_ids=index.image_ids[owners],
        boxes_xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        scores=np.linspace(0.5, 1, len(boxes), dtype=np.float32),
        labels=index.labels.astype(np.int64),
        seen=index.image_ids,
    )
    result = analyse(table, index)
    assert set(result.errors.counts.values()) == {0}
    if not len(table):
        return
    assert result.coco.numbers["map_50_95"] == pytest.approx(1)
    assert (result.best.precision, result.best.recall, result.best.f1) == (1, 1, 1)
    assert list(result.errors.gains.values()) == pytest.approx([0] * 6)
    assert np.array_equal(result.confusion[:-1, :-1], np.diag(np.bincount(index.labels, minlength=num_classes)))
    assert not result.confusion[-1].any() and not result.confusion[:, -1].any()
    assert all(record.found == 1 for record in result.images if len(record.objects))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_parts_agree(index_of: Any, random_world: Any, seed: int) -> None:
    content, table = random_world(seed, num_images=6)
    index = index_of(content)
    result = analyse(table, index, score_detections(table, index))
    assert [record.position for record in result.images] == list(range(6))
    names = [name for record in result.images for name in record.detection_errors]
    for name, count in result.errors.counts.items():
        if name != "missed":
            assert names.count(name) == count, name
    hits = names.count("")
    objects = [name for record in result.images for name in record.object_errors]
    assert objects.count("") == hits and objects.count("missed") >= result.errors.counts["missed"]
    counted = len(names) - names.count("ignored")
    if counted and objects:
        assert result.best.precision == pytest.approx(hits / counted)
        assert result.best.recall == pytest.approx(hits / len(objects))
    for record in result.images:
        scores = table.scores[record.detections]
        assert (scores >= result.best.score).all() and (np.diff(scores) <= 0).all()
        assert (table.image_ids[record.detections] == index.image_ids[record.position]).all()
        assert not index.is_crowd[record.objects].any()
    assert sum(row.num_objects for row in result.classes) == (~index.is_crowd).sum()
    assert sum(row.num_detections for row in result.classes) == len(table)
    for c, row in enumerate(result.classes):
        told = result.curves.precision_at_recall[1 + c]
        assert row.ap_50 == (pytest.approx(told.mean()) if row.num_objects else -1)
        if row.num_objects and row.num_detections:
            assert row.best.f1 >= np.nanmax(result.curves.f1[1 + c]) - 1e-12


def test_numbers_of_a_class(index_of: Any, objects_world: Any, table_of: Any) -> None:
    objects = [(0, 0, (0, 0, 50, 50)), (0, 0, (100, 0, 50, 50)), (1, 0, (0, 0, 50, 50)), (1, -2, (300, 300, 99, 99))]
    index = index_of(objects_world(objects, 2))
    result = analyse(table_of([(0, 0, (0, 0, 50, 50), 0.75), (1, 1, (300, 300, 9, 9), 0.5)], 2), index)
    first, second, third = result.classes
    assert (first.num_objects, first.num_images, first.num_detections) == (3, 2, 1)
    assert (first.best.score, first.best.recall, first.best.f1) == (0.75, pytest.approx(1 / 3), 0.5)
    assert (second.num_objects, second.num_images, second.num_detections, second.ap) == (0, 0, 1, -1)
    assert math.isnan(third.best.score)


@pytest.mark.parametrize("kind", ["usual", "no detections", "no objects", "nothing"])
def test_json_has_no_nan(kind: str, index_of: Any, random_world: Any, table_of: Any) -> None:
    content, table = random_world(0, per_image=0 if kind in ("no objects", "nothing") else 4)
    if kind in ("no detections", "nothing"):
        table = table_of([], 5)
    analysis = analyse(table, index_of(content))
    text = json.dumps(to_json(analysis), allow_nan=False)
    content = json.loads(text)
    assert content["coco"]["numbers"]["map_50"] == pytest.approx(analysis.coco.numbers["map_50"], abs=1e-6)
    assert len(content["curves"]["thresholds"]) == 101 == len(content["curves"]["f1"][0])
    assert len(content["classes"]) == 3 and len(content["confusion"]) == 4
    assert set(content["errors"]["counts"]) == {
        "localisation", "class", "both", "duplicate", "background", "missed"
    }  # fmt: skip
