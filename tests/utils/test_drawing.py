"""Drawing boxes: names in any script, signs that cover each other as little as can be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from yolo_lite.utils.drawing import PALETTE, SignWriter, draw_detections, place_signs

LABELS = np.zeros(1, np.int64)


def draw(size: tuple[int, int], box: list[float], name: str, score: float | None = None) -> np.ndarray:
    scores = None if score is None else np.array([score])
    return draw_detections(np.zeros((*size, 3), np.uint8), np.array([box]), LABELS, [name], scores)


@pytest.mark.parametrize("name", ["cat", "Möhre", "кошка", "Ωμέγα", "חתול", "two words"])
def test_names_are_written_as_they_are(name: str) -> None:
    writer = SignWriter(14)
    signs = [writer.render(text, 7, None) for text in (name, "#7", "?" * len(name))]
    for a, b in itertools.combinations(signs, 2):
        assert a.shape != b.shape or (a != b).any()


@pytest.mark.parametrize("name", ["\U0001f40a\ue123", "", " ", "\n"])
def test_what_no_font_can_write_is_a_number(name: str) -> None:
    writer = SignWriter(14)
    np.testing.assert_array_equal(writer.render(name, 7, 0.5), writer.render("#7", 0, 0.5))


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (200, 5), (300, 300)])
@pytest.mark.parametrize("box", [[0, 0, 1, 1], [-20, -20, 400, 400], [100.4, 2.2, 130.6, 80.1], [5, 5, 5, 5]])
def test_any_box_on_any_image(size: tuple[int, int], box: list[float]) -> None:
    drawn = draw(size, box, "a name that is longer than the image", 0.5)
    assert drawn.shape == (*size, 3)


def test_signs_avoid_each_other() -> None:
    boxes = [[50, 50, 120, 120], [52, 50, 122, 121], [51, 52, 121, 119]]
    shapes = [(14, 50)] * 3
    places = place_signs(boxes, shapes, (200, 200), 2)
    for (a, b), (c, d) in itertools.combinations(places, 2):
        assert abs(a - c) >= 50 or abs(b - d) >= 14


def test_lines_grow_with_the_image() -> None:
    thin = (draw((300, 300), [50, 100, 250, 280], "a")[200] > 0).any(axis=1).sum()
    thick = (draw((3000, 3000), [500, 1000, 2500, 2800], "a")[2000] > 0).any(axis=1).sum()
    assert thick > 4 * thin > 0


def test_many_small_objects_do_not_disappear_behind_their_names() -> None:
    places = np.arange(100, 2900, 100)
    corners = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 50], axis=1).astype(float)
    image = np.zeros((3000, 3000, 3), np.uint8)
    drawn = draw_detections(image, boxes, np.zeros(len(boxes), np.int64), ["car"], np.full(len(boxes), 0.5))
    assert (drawn > 0).any(axis=2).mean() < 0.35


def test_the_best_box_lies_over_the_others() -> None:
    boxes = np.array([[10.0, 10, 60, 60], [10, 10, 60, 60]])
    drawn = draw_detections(np.zeros((80, 80, 3), np.uint8), boxes, np.array([1, 0]), ["a", "b"])
    distances = [np.abs(drawn[35, 10].astype(int) - colour).sum() for colour in PALETTE]
    assert np.argmin(distances) == 1
