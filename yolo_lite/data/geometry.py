"""Where source images land in the output, and their boxes with them.

Every source is drawn once, straight into the output. Without rotation that is a crop and a resize, which OpenCV does 4
to 5 times as fast as a warp; the map that the boxes follow is the one that the whole pixels of crop and target imply.
Boxes are (N, 4) float32 xyxy in pixels; a pixel's centre lies at +0.5. The plane is where a mosaic is laid out, its
origin in the middle of the view, in pixels of the sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

FILL = 114
# An object that lost more than this share of its area, or that is smaller than this, is not worth a label.
MIN_VISIBLE_AREA = 0.1
MIN_SIDE = 2.0


class Drawn(NamedTuple):
    """An image (H, W, 3) uint8 RGB with its boxes (N, 4) xyxy in pixels and labels (N,)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Tile:
    """A source with its top left corner at (x, y) of the plane."""

    source: Drawn
    x: float
    y: float

    def cropped(self, x1: float, x2: float, y1: float, y2: float) -> Tile:
        """What of it lies inside a rectangle of the plane, to whole pixels of the source, at least one."""
        height, width = self.source.image.shape[:2]
        left, right = crop_axis(x1 - self.x, x2 - self.x, width)
        top, bottom = crop_axis(y1 - self.y, y2 - self.y, height)
        image, boxes, labels = self.source
        boxes, keep = clip_boxes(boxes - np.array([left, top] * 2, np.float32), right - left, bottom - top)
        return Tile(Drawn(image[top:bottom, left:right], boxes, labels[keep]), self.x + left, self.y + top)


def crop_axis(start: float, end: float, length: int) -> tuple[int, int]:
    """Whole pixels of an axis of `length` between two places."""
    first = min(max(0, round(start)), length - 1)
    return first, max(first + 1, min(length, round(end)))


@dataclass(frozen=True)
class View:
    """The map from the plane to a square output: projective, about the middle.

    Attributes:
        size: side of the output, pixels.
        zoom: output pixels per pixel of the plane.
        shift: (x, y) of the plane's origin from the middle of the output, pixels.
        rotation: degrees.
        shear: (x, y), degrees.
        perspective: (x, y), in 1 / (half a side of the output).
    """

    size: int
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    shear: tuple[float, float] = (0.0, 0.0)
    perspective: tuple[float, float] = (0.0, 0.0)

    @property
    def is_upright(self) -> bool:
        """Axes stay axes."""
        return self.rotation == 0 and self.shear == (0, 0) and self.perspective == (0, 0)

    def matrix(self) -> np.ndarray:
        """(3, 3) from points of the plane to points of the output."""
        half = self.size / 2
        turn, (shear_x, shear_y) = math.radians(self.rotation), (math.tan(math.radians(s)) for s in self.shear)
        cos, sin = math.cos(turn), math.sin(turn)
        scale = np.diag([self.zoom, self.zoom, 1.0])
        rotate = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        sheared = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
        project = np.array([[1, 0, 0], [0, 1, 0], [self.perspective[0] / half, self.perspective[1] / half, 1]])
        move = np.array([[1, 0, half + self.shift[0]], [0, 1, half + self.shift[1]], [0, 0, 1]])
        return np.asarray(move @ project @ sheared @ rotate @ scale)

    def draw(self, tiles: list[Tile]) -> Drawn:
        """The tiles on grey, and the boxes of which enough is seen."""
        canvas = np.full((self.size, self.size, 3), FILL, dtype=np.uint8)
        boxes, labels = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
        for tile in tiles:
            moved = self._draw_upright(canvas, tile) if self.is_upright else self._draw_warped(canvas, tile)
            if moved is not None:
                clipped, keep = clip_boxes(moved, self.size, self.size)
                boxes.append(clipped)
                labels.append(tile.source.labels[keep])
        return Drawn(canvas, np.concatenate(boxes).astype(np.float32), np.concatenate(labels))

    def _draw_upright(self, canvas: np.ndarray, tile: Tile) -> np.ndarray | None:
        """Draw; the tile's boxes in the output, or None where nothing of it is seen."""
        image, boxes, _ = tile.source
        middle = self.size / 2
        x = fit_axis(tile.x * self.zoom + middle + self.shift[0], image.shape[1], self.zoom, self.size)
        y = fit_axis(tile.y * self.zoom + middle + self.shift[1], image.shape[0], self.zoom, self.size)
        if x is None or y is None:
            return None
        target = canvas[y.target, x.target]
        source = image[y.source, x.source]
        if source.shape == target.shape:
            target[...] = source
        else:
            cv2.resize(source, target.shape[1::-1], dst=target, interpolation=cv2.INTER_LINEAR)
        return np.asarray(boxes * np.array([x.scale, y.scale] * 2) + np.array([x.offset, y.offset] * 2))

    def _draw_warped(self, canvas: np.ndarray, tile: Tile) -> np.ndarray | None:
        """The same under rotation, shear and perspective: a box becomes the upright one around its four corners."""
        image, boxes, _ = tile.source
        height, width = image.shape[:2]
        place = self.matrix() @ np.array([[1, 0, tile.x], [0, 1, tile.y], [0, 0, 1]])
        outline = map_boxes(np.array([[0, 0, width, height]], dtype=np.float64), place)[0]
        if not np.isfinite(outline).all():
            return None
        x1, y1 = np.maximum(np.floor(outline[:2]), 0).astype(int)
        x2, y2 = np.minimum(np.ceil(outline[2:]), self.size).astype(int)
        if x2 <= x1 or y2 <= y1:
            return None
        # OpenCV maps pixel centres that lie at whole numbers.
        to_centres = np.array([[1, 0, -0.5 - x1], [0, 1, -0.5 - y1], [0, 0, 1]])
        from_centres = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        target = canvas[y1:y2, x1:x2].copy()
        matrix = to_centres @ place @ from_centres
        cv2.warpPerspective(image, matrix, target.shape[1::-1], dst=target, borderMode=cv2.BORDER_TRANSPARENT)
        canvas[y1:y2, x1:x2] = target
        return map_boxes(boxes, place)


class Axis(NamedTuple):
    """How one axis of a source is drawn: `target = source * scale + offset`."""

    source: slice
    target: slice
    scale: float
    offset: float


def fit_axis(start: float, length: int, zoom: float, limit: int) -> Axis | None:
    """Draw an axis of `length` pixels from `start` on, `zoom` times as large, into `limit` pixels.

    Source and target are whole pixels, so the scale differs from `zoom` by less than a pixel over what is seen.
    """
    first, last = max(0, round(start)), min(limit, round(start + length * zoom))
    if last <= first:
        return None
    low, high = crop_axis((first - start) / zoom, (last - start) / zoom, length)
    scale = (last - first) / (high - low)
    return Axis(slice(low, high), slice(first, last), scale, first - low * scale)


def map_boxes(boxes_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The upright boxes (N, 4) around the corners of boxes that a (3, 3) matrix moves; infinite behind the viewer."""
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    points = corners @ matrix[:2, :2].T + matrix[:2, 2]
    depth = corners @ matrix[2, :2] + matrix[2, 2]
    with np.errstate(divide="ignore"):
        points = np.where(depth[..., None] > 0, points / np.maximum(depth, 1e-12)[..., None], np.inf)
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def clip_boxes(boxes_xyxy: np.ndarray, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to an image, and which (N,) were worth keeping; the first holds the kept ones only."""
    finite = np.isfinite(boxes_xyxy).all(axis=1)
    boxes = np.where(finite[:, None], boxes_xyxy, 0)
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    sides = clipped[:, 2:] - clipped[:, :2]
    before = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    keep = finite & (sides >= MIN_SIDE).all(axis=1) & (sides.prod(axis=1) >= MIN_VISIBLE_AREA * before)
    return clipped[keep], keep


def flip(drawn: Drawn, horizontally: bool) -> Drawn:
    """Mirrored left and right, or top and bottom."""
    image, boxes, labels = drawn
    height, width = image.shape[:2]
    x1, y1, x2, y2 = boxes.T
    if horizontally:
        return Drawn(cv2.flip(image, 1), np.stack([width - x2, y1, width - x1, y2], axis=1), labels)
    return Drawn(cv2.flip(image, 0), np.stack([x1, height - y2, x2, height - y1], axis=1), labels)
