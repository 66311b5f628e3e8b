"""COCO's numbers against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.evaluation.coco_scores import COCO_NUMBERS, CocoScores, score_detections


def per_class(values: np.ndarray) -> float:
    """pycocotools' mean of what can be told."""
    return float(values[values > -1].mean()) if (values > -1).any() else -1.0


def assert_equal(scores: CocoScores, evaluation: Any, names: list[str]) -> None:
    """All numbers, and those of each class."""
    for name, theirs in zip(COCO_NUMBERS, evaluation.stats, strict=True):
        assert scores.numbers[name] == pytest.approx(theirs, abs=1e-6), name
    precision, recall = evaluation.eval["precision"][..., 0, 2], evaluation.eval["recall"][..., 0, 2]
    for k, name in enumerate(names):
        assert scores.per_class[name] == pytest.approx(per_class(precision[:, :, k]), abs=1e-6), name
        assert scores.per_class_50[name] == pytest.approx(per_class(precision[0, :, k]), abs=1e-6), name
        assert scores.per_class_ar[name] == pytest.approx(per_class(recall[:, k]), abs=1e-6), name


@pytest.mark.parametrize("with_crowds", [False, True])
@pytest.mark.parametrize("name", ["bccd", "coco128"])
def test_real_data(
    name: str, with_crowds: bool, real_world: Any, index_of: Any, noisy_copy: Any, coco_results: Any, judge: Any
) -> None:
    content, index = real_world(name)
    if with_crowds:
        for i, entry in enumerate(content["annotations"]):
            entry["iscrowd"] = int(i % 5 == 0)
        index = index_of(content)
    table = noisy_copy(index)
    evaluation = judge(content, coco_results(table, index))
    assert 0.05 < evaluation.stats[0] < 0.95  # a score at either end would prove nothing
    assert_equal(score_detections(table, index), evaluation, index.class_names)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_classes=st.integers(1, 4),
    per_image=st.sampled_from([0, 1, 6]),
    detections=st.sampled_from([0, 1, 15]),
    crowds=st.sampled_from([0.0, 0.3]),
    levels=st.sampled_from([1, 3, 1000]),
)
def test_drawn_worlds(
    index_of: Any, random_world: Any, coco_results: Any, judge: Any, seed: int, **options: Any
) -> None:
    """Crowds, areas of masks, gaps in the category ids, ties of scores and of IoU, images without anything."""
    content, table = random_world(seed, **options)
    index = index_of(content)
    evaluation = judge(content, coco_results(table, index))
    assert_equal(score_detections(table, index), evaluation, index.class_names)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("levels", [5, 10_000])
def test_more_detections_than_coco_looks_at(
    num_classes: int, levels: int, index_of: Any, random_world: Any, coco_results: Any, judge: Any
) -> None:
    content, table = random_world(0, num_images=4, num_classes=num_classes, per_image=20, detections=300, levels=levels)
    index = index_of(content)
    evaluation = judge(content, coco_results(table, index))
    assert_equal(score_detections(table, index), evaluation, index.class_names)


def test_images_in_any_order(index_of: Any, random_world: Any, coco_results: Any, judge: Any) -> None:
    """Equal scores on several images: the one with the smaller id comes first, wherever it stands in the file."""
    content, table = random_world(3, num_images=12, levels=2)
    content["images"].reverse()
    index = index_of(content)
    assert index.image_ids[0] > index.image_ids[-1]
    evaluation = judge(content, coco_results(table, index))
    assert_equal(score_detections(table, index), evaluation, index.class_names)


def test_only_images_that_were_looked_at(index_of: Any, random_world: Any, coco_results: Any, judge: Any) -> None:
    content, table = random_world(4, num_images=8)
    index = index_of(content)
    part = table.without(index.image_ids[::2])
    evaluation = judge(content, coco_results(part, index), part.seen)
    scores = score_detections(part, index)
    assert scores.num_images == 4
    assert_equal(scores, evaluation, index.class_names)


def test_nothing_was_looked_at(index_of: Any, random_world: Any) -> None:
    content, table = random_world(4)
    index = index_of(content)
    scores = score_detections(table.without(index.image_ids), index)
    assert set(scores.numbers.values()) == {-1.0} and set(scores.per_class.values()) == {-1.0}
    assert scores.num_images == 0


def test_the_order_of_rows_of_different_images_does_not_matter(index_of: Any, random_world: Any) -> None:
    """Several processes look at the images in another order than one does."""
    content, table = random_world(5, num_images=10, levels=2)
    index = index_of(content)
    halves = [table.without(index.image_ids[::2]), table.without(index.image_ids[1::2])]
    assert score_detections(table.concatenate(halves), index) == score_detections(table, index)
