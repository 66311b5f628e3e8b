"""The gallery has the worst, the best and every kind of error, and draws boxes where they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.evaluation.gallery import (
    CANVAS_SIDE,
    MAX_MARKS,
    SMALLEST_MARK,
    choose_images,
    error_pairs,
    fit,
    make_picture,
)


def test_worst_first_and_at_most_so_many(scored_model) -> None:
    model = scored_model(num_images=30)
    chosen = choose_images(model.analysis.images, model.table, model.index, 10)
    assert len(chosen) == 10
    assert len({record.position for record in chosen}) == 10
    assert [record.found for record in chosen] == sorted(record.found for record in chosen)
    found = [record.found for record in model.analysis.images]
    assert chosen[0].found == min(found) and chosen[-1].found == max(found)


def test_each_kind_of_error_of_each_class_has_images_where_there_is_room(scored_model) -> None:
    model = scored_model([f"class {c}" for c in range(6)], num_images=30)

    def pairs(records: list) -> set:
        return {pair for record in records for pair in error_pairs(record, model.table, model.index)}

    chosen = choose_images(model.analysis.images, model.table, model.index, 12)
    assert len(pairs(model.analysis.images)) >= 4
    assert pairs(chosen) == pairs(model.analysis.images)


def test_images_with_nothing_on_them_are_left_out(scored_model) -> None:
    model = scored_model(per_image=0)
    assert choose_images(model.analysis.images, model.table, model.index, 10) == []


def test_boxes_are_drawn_to_scale(scored_model) -> None:
    model = scored_model(num_images=3)
    picture = make_picture(model.analysis.images[2], model.table, model.index)
    scale = CANVAS_SIDE / 128
    assert (picture.width, picture.height) == pytest.approx((CANVAS_SIDE, 96 * scale))
    expected = sorted((model.index.boxes_xywh[model.index.rows(2)] * scale).tolist())
    assert np.allclose(sorted(mark.box_xywh for mark in picture.truth), expected)
    assert all(mark.score is None for mark in picture.truth)
    assert all(mark.score is not None for mark in picture.predictions)


def test_boxes_drawn_are_bounded_and_the_wrong_ones_kept(scored_model) -> None:
    model = scored_model(num_images=2, per_image=2 * MAX_MARKS)
    picture = make_picture(model.analysis.images[0], model.table, model.index)
    assert len(picture.truth) == MAX_MARKS
    assert picture.num_objects == 2 * MAX_MARKS
    assert {mark.error for mark in picture.truth} == {"missed"}


@given(
    box=st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 2, *[st.floats(0, 1e4, width=32)] * 2),
    canvas=st.tuples(st.floats(0.5, CANVAS_SIDE), st.floats(0.5, CANVAS_SIDE)),
)
def test_marks_can_be_seen_and_stay_inside(box: tuple[float, ...], canvas: tuple[float, float]) -> None:
    left, top, width, height = fit(np.array(box, dtype=np.float64), canvas)
    assert left >= -1e-6 and top >= -1e-6
    assert left + width <= canvas[0] + 1e-6 and top + height <= canvas[1] + 1e-6
    assert width >= min(SMALLEST_MARK, canvas[0]) - 1e-6 and height >= min(SMALLEST_MARK, canvas[1]) - 1e-6
