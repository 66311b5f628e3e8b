"""Views: what is seen of an image comes back to where it was; tiles cover all; an object is found once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.deploy.detector import PredictOptions
from yolo_lite.deploy.views import View, input_shape, locate, make_views, merge, see, tile_starts
from yolo_lite.ops.postprocess import Detections
from yolo_lite.utils.errors import UserError


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, int], View]:
    """The size of an image and a view of it."""
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    mirrored, share = draw(st.booleans()), draw(st.sampled_from([1.0, 0.8, 0.5]))
    return (height, width), View(left, top, right, bottom, mirrored, share)


shapes = st.tuples(st.integers(1, 5), st.integers(1, 5)).map(lambda s: (32 * s[0], 32 * s[1]))
fractions = st.tuples(*[st.floats(0, 1)] * 4)


def found_at(boxes: list[list[float]], label: int = 0) -> Detections:
    return Detections(
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        torch.linspace(0.9, 0.5, len(boxes), dtype=torch.float64),
        torch.full((len(boxes),), label),
    )


@settings(max_examples=150, deadline=None)
@given(views(), shapes, fractions)
def test_a_box_comes_back_to_where_it_was(
    seen: tuple[tuple[int, int], View], shape: tuple[int, int], corners: tuple[float, float, float, float]
) -> None:
    size, view = seen
    x1, x2 = (view.left + f * view.shape[1] for f in sorted(corners[:2]))
    y1, y2 = (view.top + f * view.shape[0] for f in sorted(corners[2:]))
    image, placed = see(np.zeros((*size, 3), np.uint8), view, shape)
    assert image.shape == (*shape, 3)
    inside = [x1 - view.left, x2 - view.left]
    if view.mirrored:
        inside = [view.shape[1] - inside[1], view.shape[1] - inside[0]]
    box = [
        inside[0] * placed.scale_x + placed.pad_x,
        (y1 - view.top) * placed.scale_y + placed.pad_y,
        inside[1] * placed.scale_x + placed.pad_x,
        (y2 - view.top) * placed.scale_y + placed.pad_y,
    ]
    assert min(box) >= -1e-6
    assert max(box[2] - shape[1], box[3] - shape[0]) <= 1e-6
    back = locate(found_at([box]), view, placed)
    torch.testing.assert_close(
        back.boxes_xyxy[0], torch.tensor([x1, y1, x2, y2], dtype=torch.float64), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_what_is_drawn_is_seen_there(
    mirrored: bool, share: float, scale: float, draw_rectangles: Callable[..., np.ndarray]
) -> None:
    """Measured on pixels: the box of a rectangle in the input leads to the rectangle in the image."""
    box = [40, 60, 100, 90]
    picture = draw_rectangles((160, 240), [box])
    pixels = picture[::2, ::2] if scale == 0.5 else picture
    view = View(0, 0, 240, 160, mirrored, share)
    image, placed = see(pixels, view, (192, 192), scale)
    rows, columns = np.nonzero(image[..., 0] > 150)
    seen = [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]
    back = locate(found_at([seen]), view, placed).boxes_xyxy[0]
    assert (back - torch.tensor(box)).abs().max() <= 2.5


def test_boxes_end_at_their_view() -> None:
    view = View(10, 20, 74, 84)
    _, placed = see(np.zeros((100, 100, 3), np.uint8), view, (64, 64))
    assert locate(found_at([[-5, -5, 70, 90]]), view, placed).boxes_xyxy.tolist() == [[10, 20, 74, 84]]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20_000), st.integers(32, 2000), st.floats(0, 0.9))
def test_tiles_cover_a_side_and_overlap_as_asked(side: int, tile: int, overlap: float) -> None:
    starts = tile_starts(side, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile == max(side, tile)
    assert all(a < b for a, b in itertools.pairwise(starts))
    for a, b in itertools.pairwise(starts):
        assert a + tile - b >= overlap * tile - 1e-6
    if len(starts) > 1:  # one tile less would leave a gap or overlap too little
        assert (len(starts) - 2) * int(tile * (1 - overlap)) + tile < side


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(32, 300), st.booleans())
def test_every_pixel_is_seen_whole_and_in_a_tile(height: int, width: int, tile: int, augment: bool) -> None:
    found = make_views((height, width), tile, 0.2, augment)
    plain = [view for view in found if not view.mirrored and view.share == 1]
    assert len(found) == len(plain) * (4 if augment else 1)
    assert (plain[0].left, plain[0].top, plain[0].right, plain[0].bottom) == (0, 0, width, height)
    tiles = plain[1:]
    assert bool(tiles) == (max(height, width) > tile)
    covered = np.zeros((height, width), bool)
    for view in tiles:
        assert view.is_tile
        assert max(view.shape) <= tile
        covered[view.top : view.bottom, view.left : view.right] = True
    assert covered.all() == bool(tiles)


@pytest.mark.parametrize(("size", "expected"), [((480, 640), (96, 128)), ((1, 1), (128, 128)), ((1, 500), (32, 128))])
def test_rectangular_inputs(size: tuple[int, int], expected: tuple[int, int]) -> None:
    view = View(0, 0, size[1], size[0])
    assert input_shape(view, 128, None, True) == expected
    assert input_shape(view, 128, None, False) == (128, 128)
    assert input_shape(view, 128, (64, 96), True) == (64, 96)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, int], list[list[int]], list[int]]:
    """A size and objects on a grid, apart from each other and smaller than the overlap of the tiles."""
    rows, columns = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    boxes, labels = [], []
    for row in range(rows):
        for column in range(columns):
            if draw(st.booleans()):
                x, y = 60 * column + draw(st.integers(0, 20)), 60 * row + draw(st.integers(0, 20))
                boxes.append([x, y, x + draw(st.integers(12, 30)), y + draw(st.integers(12, 30))])
                labels.append(draw(st.integers(0, 2)))
    return (60 * rows, 60 * columns), boxes, labels


@settings(max_examples=100, deadline=None)
@given(scenes(), st.booleans(), st.booleans())
def test_each_object_is_kept_once(
    scene: tuple[tuple[int, int], list[list[int]], list[int]], augment: bool, is_small: bool
) -> None:
    """Every view finds what it shows of each object; the whole image misses them where they are small in it. Parts get
    higher scores than the whole, as a detector well may give them."""
    size, boxes, labels = scene
    parts = []
    for view in make_views(size, 100, 0.35, augment):
        if is_small and not view.is_tile:
            parts.append((view, found_at([])))
            continue
        seen, scores, kinds = [], [], []
        for box, label in zip(boxes, labels, strict=True):
            x1, y1 = max(box[0], view.left), max(box[1], view.top)
            x2, y2 = min(box[2], view.right), min(box[3], view.bottom)
            if x2 > x1 and y2 > y1:
                is_whole = [x1, y1, x2, y2] == box
                seen.append([x1, y1, x2, y2])
                scores.append(0.6 if is_whole else 0.8)
                kinds.append(label if is_whole else (label + 1) % 3)
        found = found_at(seen)  # type: ignore[arg-type]
        parts.append(
            (
                view,
                Detections(
                    found.boxes_xyxy, torch.tensor(scores, dtype=torch.float64), torch.tensor(kinds, dtype=torch.long)
                ),
            )
        )
    merged = merge(parts, size, 0.5, 300)
    got = sorted(zip(merged.boxes_xyxy.tolist(), merged.labels.tolist(), strict=True))
    assert got == sorted((list(map(float, box)), label) for box, label in zip(boxes, labels, strict=True))


def test_an_object_larger_than_a_tile_comes_from_the_whole_image() -> None:
    size, box = (300, 300), [20.0, 20.0, 280.0, 280.0]
    parts = []
    for view in make_views(size, 100, 0.2, augment=False):
        seen = [max(box[0], view.left), max(box[1], view.top), min(box[2], view.right), min(box[3], view.bottom)]
        parts.append((view, found_at([seen])))
    assert merge(parts, size, 0.7, 300).boxes_xyxy.tolist() == [box]


def test_merging_keeps_the_best() -> None:
    views_of = make_views((100, 100), 60, 0.2, augment=False)
    boxes = [[float(x), float(y), x + 8.0, y + 8.0] for x in range(5, 90, 20) for y in range(5, 90, 20)]
    parts = [(view, found_at(boxes if not view.is_tile else [])) for view in views_of]
    kept = merge(parts, (100, 100), 0.7, 7)
    assert kept.boxes_xyxy.tolist() == boxes[:7]
    assert (kept.scores.diff() <= 0).all()


def test_tiles_of_no_use_are_refused() -> None:
    for options in ({"tile": 8}, {"tile": 64, "overlap": 0.95}, {"overlap": -0.1}):
        with pytest.raises(UserError, match=r"tile=|overlap="):
            PredictOptions(**options)  # type: ignore[arg-type]
