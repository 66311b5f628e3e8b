"""Boxes follow every augmentation: a coloured rectangle goes in, and what comes out is measured."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.data.augment import AugmentConfig, Augmenter
from yolo_lite.data.geometry import Drawn, Tile, View, clip_boxes, fit_axis, flip, map_boxes
from yolo_lite.data.mixing import hidden_share, mosaic9, uncovered

SIZE = 192
DRAWS = 1000
STILL: dict[str, Any] = {"mosaic": 0.0, "scale": 0.0, "translate": 0.0, "hsv": 0.0, "flip": 0.0}
# One by one, and all that keeps axes; all together with the rest.
UPRIGHT: dict[str, dict[str, Any]] = {
    "scale": {"scale": 0.5},
    "translate": {"translate": 0.3},
    "flip": {"flip": 0.5},
    "flip_vertical": {"flip_vertical": 0.5},
    "mosaic": {"mosaic": 1.0, "scale": 0.5, "translate": 0.1},
    "mosaic9": {"mosaic": 1.0, "mosaic9": 1.0, "scale": 0.5, "translate": 0.1},
    "mixup": {"mixup": 1.0, "scale": 0.3},
    "cutmix": {"cutmix": 1.0, "scale": 0.3},
    "copy_paste": {"copy_paste": 1.0, "scale": 0.3},
    "blur": {"blur": 1.0, "blur_limit": 3, "scale": 0.3},
    "jpeg": {"jpeg": 1.0, "jpeg_quality": 90, "scale": 0.3},
    "hsv": {"hsv": 1.0, "hsv_hue": 0.0, "hsv_saturation": 0.2, "hsv_value": 0.2, "scale": 0.3},
    "extra": {"extra": [{"RandomBrightnessContrast": {"p": 1.0}}, {"VerticalFlip": {"p": 0.5}}]},
    "together": {
        **{"mosaic": 0.7, "mosaic9": 0.3, "mixup": 0.2, "cutmix": 0.2, "copy_paste": 0.3, "scale": 0.5},
        **{"translate": 0.1, "flip": 0.5, "flip_vertical": 0.5, "extra": [{"Transpose": {"p": 0.5}}]},
    },
}
TURNED: dict[str, dict[str, Any]] = {
    "rotate": {"rotate": 180.0},
    "shear": {"shear": 30.0},
    "perspective": {"perspective": 0.4},
    "together": {**UPRIGHT["together"], "rotate": 30.0, "shear": 10.0, "perspective": 0.2},
}


def source(i: int) -> Drawn:
    """A grey image of one of several shapes with a rectangle, red, green or blue by turns."""
    rng = np.random.default_rng(i)
    height, width = ((144, SIZE), (SIZE, 160), (SIZE, SIZE))[i % 3]
    image = np.full((height, width, 3), 90, dtype=np.uint8)
    x1, y1 = int(rng.integers(0, width - 80)), int(rng.integers(0, height - 70))
    x2, y2 = x1 + int(rng.integers(50, 80)), y1 + int(rng.integers(50, 70))
    label = i % 3
    image[y1:y2, x1:x2] = 0
    image[y1:y2, x1:x2, label] = 255
    return Drawn(image, np.array([[x1, y1, x2, y2]], dtype=np.float32), np.array([label]))


SOURCES = [source(i) for i in range(12)]


def shining(image: np.ndarray, label: int) -> np.ndarray:
    """(H, W) share of each pixel that the pure colour covers."""
    others = [c for c in range(3) if c != label]
    x = image.astype(np.float32)
    return np.clip((x[..., label] - x[..., others].max(axis=-1)) / 255, 0, 1)


def extent(cover: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """The upright box around what shines in and around the middle of `box`, edges to a fraction of a pixel.

    Slivers of other rectangles, which are too small for a box, may lie elsewhere.
    """
    peak = float(np.quantile(cover[cover > 0.2], 0.9)) if (cover > 0.2).any() else 0.0
    _, pieces = cv2.connectedComponents((cover > 0.1 * peak).astype(np.uint8))
    (x1, y1), (x2, y2) = box[:2].astype(int), np.ceil(box[2:]).astype(int)
    inside = pieces[y1:y2, x1:x2][cover[y1:y2, x1:x2] > 0.1 * peak]
    if peak == 0 or not len(inside):
        return None
    cover = np.where(pieces == np.bincount(inside).argmax(), cover, 0)
    edges = []
    for axis in (0, 1):
        profile = np.minimum(cover.max(axis=axis) / peak, 1)
        places = np.flatnonzero(profile > 0.1)
        edges.append((places[0] + 1 - profile[places[0]], places[-1] + profile[places[-1]]))
    (left, right), (top, bottom) = edges
    return np.array([left, top, right, bottom])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    inter = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inter / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inter))


def is_separate(boxes: np.ndarray, label: int, labels: np.ndarray) -> bool:
    """The one box of its colour, and no other box near it."""
    if (labels == label).sum() != 1:
        return False
    (mine,) = boxes[labels == label]
    others = boxes[labels != label]
    return bool((hidden_share(others, (mine + np.array([-3, -3, 3, 3]))[None]) == 0).all())


def check_draws(options: dict[str, Any], least: float, whole_only: bool = False) -> int:
    """Draw many views; returns how many rectangles could be measured.

    Args:
        options: of the augmentation.
        least: IoU of what is measured with the box.
        whole_only: only rectangles that lie inside the view as a whole.
    """
    augmenter = Augmenter(AugmentConfig(**{**STILL, **options}), SIZE, SOURCES.__getitem__, len(SOURCES))
    compared, hides = 0, bool(options.get("cutmix") or options.get("copy_paste"))
    for k in range(DRAWS):
        image, boxes, labels = augmenter(k % len(SOURCES), np.random.default_rng(k), use_mosaic=True)
        assert image.shape == (SIZE, SIZE, 3)
        assert len(boxes) == len(labels)
        assert ((boxes >= 0) & (boxes <= SIZE)).all()
        for label in range(3):
            if not is_separate(boxes, label, labels):
                continue
            (box,) = boxes[labels == label]
            if (box[2:] - box[:2]).min() < 40 or (whole_only and ((box[:2] < 1) | (box[2:] > SIZE - 1)).any()):
                continue
            found = extent(shining(image, label), box)
            assert found is not None, k
            if hides and (np.abs(found - box) > 3).any():
                continue  # it touches what is left of an object that lost its box
            assert iou(found, box) > least, (k, label, found, box)
            compared += 1
    return compared


@pytest.mark.parametrize("name", UPRIGHT)
def test_boxes_follow_what_keeps_axes(name: str) -> None:
    least = 0.88 if name in ("blur", "jpeg") else 0.95  # these smear the edges that are measured
    assert check_draws(UPRIGHT[name], least) > DRAWS // 10


@pytest.mark.parametrize("name", TURNED)
def test_boxes_follow_rotation_shear_and_perspective(name: str) -> None:
    """The box is the one around the transformed rectangle, then clipped: of a turned rectangle that reaches outside the
    view less may be seen than of its box, so only whole ones are compared."""
    assert check_draws({"scale": 0.3, **TURNED[name]}, 0.93, whole_only=True) > DRAWS // 10


@given(st.floats(-300, 300), st.integers(1, 300), st.floats(0.2, 3), st.integers(32, 200))
def test_an_axis_is_drawn_where_its_map_says(start: float, length: int, zoom: float, limit: int) -> None:
    axis = fit_axis(start, length, zoom, limit)
    if axis is None:
        assert round(start + length * zoom) <= 0 or round(start) >= limit or round(length * zoom) == 0 or zoom < 1
        return
    assert 0 <= axis.source.start < axis.source.stop <= length
    assert 0 <= axis.target.start < axis.target.stop <= limit
    # The map takes the ends of the source piece to the ends of the target piece, exactly.
    assert axis.source.start * axis.scale + axis.offset == pytest.approx(axis.target.start, abs=1e-6)
    assert axis.source.stop * axis.scale + axis.offset == pytest.approx(axis.target.stop, abs=1e-6)


boxes = st.lists(
    st.tuples(*[st.floats(0, 90)] * 2, *[st.floats(1, 60)] * 2).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    min_size=1,
    max_size=8,
).map(lambda rows: np.array(rows, dtype=np.float32))


@given(boxes, st.floats(-180, 180), st.floats(0.5, 2), st.tuples(st.floats(-20, 20), st.floats(-20, 20)))
def test_moved_boxes_hold_every_moved_point(
    given_boxes: np.ndarray, rotation: float, zoom: float, shear: tuple[float, float]
) -> None:
    matrix = View(100, zoom, (3.0, -7.0), rotation, shear, (0.1, 0.05)).matrix()
    moved = map_boxes(given_boxes, matrix)
    rng = np.random.default_rng(0)
    for box, around in zip(given_boxes, moved, strict=True):
        points = box[:2] + rng.random((20, 2)) * (box[2:] - box[:2])
        out = np.concatenate([points, np.ones((20, 1))], axis=1) @ matrix.T
        if (out[:, 2] <= 0.05).any() or not np.isfinite(around).all():
            continue
        out = out[:, :2] / out[:, 2:]
        assert (out >= around[:2] - 1e-3).all()
        assert (out <= around[2:] + 1e-3).all()


@given(boxes)
def test_mirrored_twice_is_as_before(given_boxes: np.ndarray) -> None:
    image = np.zeros((160, 170, 3), dtype=np.uint8)
    drawn = Drawn(image, given_boxes, np.arange(len(given_boxes)))
    for horizontally in (True, False):
        once = flip(drawn, horizontally)
        assert (once.boxes[:, 2:] > once.boxes[:, :2]).all()
        np.testing.assert_allclose(flip(once, horizontally).boxes, given_boxes, atol=1e-3)


@given(boxes, st.integers(20, 150), st.integers(20, 150))
def test_clipped_boxes_lie_inside(given_boxes: np.ndarray, width: int, height: int) -> None:
    clipped, keep = clip_boxes(given_boxes, width, height)
    assert len(clipped) == keep.sum()
    assert (clipped >= 0).all()
    assert (clipped[:, [0, 2]] <= width).all()
    assert (clipped[:, [1, 3]] <= height).all()


def test_what_lies_behind_the_viewer_is_no_box() -> None:
    behind = np.array([[1.0, 0, 0], [0, 1, 0], [0.1, 0, -5]])
    clipped, keep = clip_boxes(map_boxes(np.array([[0.0, 0, 10, 10]]), behind), 100, 100)
    assert not keep.any()
    assert len(clipped) == 0


@pytest.mark.parametrize(
    ("cover", "expected"),
    [
        ((0, 0, 20, 100), (20, 10, 50, 50)),  # the left side is gone
        ((40, 0, 90, 100), (10, 10, 40, 50)),
        ((0, 0, 100, 30), (10, 30, 50, 50)),
        ((0, 40, 100, 100), (10, 10, 50, 40)),
        ((0, 0, 30, 30), (10, 10, 50, 50)),  # a corner
        ((20, 0, 40, 100), (10, 10, 50, 50)),  # the middle
        ((60, 60, 90, 90), (10, 10, 50, 50)),
    ],
)
def test_what_a_rectangle_leaves(cover: tuple[int, ...], expected: tuple[int, ...]) -> None:
    left = uncovered(np.array([[10.0, 10, 50, 50]]), np.array(cover))
    assert left[0].tolist() == list(expected)


def test_nine_images_do_not_overlap() -> None:
    tiles = mosaic9([SOURCES[i % len(SOURCES)] for i in range(9)], (10.0, -20.0))
    areas = [np.array([t.x, t.y, t.x + t.source.image.shape[1], t.y + t.source.image.shape[0]]) for t in tiles]
    for i, a in enumerate(areas):
        for b in areas[i + 1 :]:
            overlap = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
            assert (overlap <= 1).any()  # cuts are made at whole pixels


def test_a_tile_is_cut_to_whole_pixels() -> None:
    tile = Tile(SOURCES[0], -50.0, -40.0).cropped(-10.4, 30.2, -40, 200)
    assert tile.source.image.shape[:2] == (144, 40)
    assert (tile.x, tile.y) == (-10, -40)


def test_sizes_other_than_the_source() -> None:
    augmenter = Augmenter(AugmentConfig(**{**STILL}), SIZE, SOURCES.__getitem__, len(SOURCES))
    plain = augmenter(0, np.random.default_rng(0), use_mosaic=False)
    for size in (96, 320):
        image, found, _ = augmenter(0, np.random.default_rng(0), use_mosaic=False, size=size)
        assert image.shape == (size, size, 3)
        np.testing.assert_allclose(found, plain.boxes * size / SIZE, atol=0.6)


def test_partners_are_those_that_are_given() -> None:
    seen: list[int] = []

    def load(i: int) -> Drawn:
        seen.append(i)
        return SOURCES[i]

    augmenter = Augmenter(AugmentConfig(mixup=0.5, cutmix=0.5, copy_paste=0.5, mosaic9=0.5), SIZE, load, len(SOURCES))
    for k in range(50):
        augmenter(0, np.random.default_rng(k), use_mosaic=True, partners=(3, 5))
    assert set(seen) == {0, 3, 5}
