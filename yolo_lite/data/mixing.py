"""Several images become one: mosaic of four and nine, mixup, cutmix, copy-paste.

Boxes are (N, 4) float32 xyxy in pixels. All randomness comes from the generator handed in.
"""

from __future__ import annotations

import cv2
import numpy as np

from yolo_lite.data.geometry import Drawn, Tile, clip_boxes

MIXUP_BETA = 32.0
# Where an image's corner lies from the joint, in sides of that image: top left, top right, bottom left, bottom right.
CORNERS = ((-1.0, -1.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 0.0))
# An object that another picture hides by more than this is gone.
MAX_HIDDEN = 0.5
# At most so many objects are pasted, each tried at so many places.
MAX_PASTED = 5
PLACES = 8


def mosaic4(sources: list[Drawn], joint: tuple[float, float]) -> list[Tile]:
    """Four images (YOLOv4, arXiv:2004.10934) that meet at `joint` of the plane."""
    tiles = []
    for source, (right, down) in zip(sources, CORNERS, strict=True):
        height, width = source.image.shape[:2]
        tiles.append(Tile(source, joint[0] + right * width, joint[1] + down * height))
    return tiles


def mosaic9(sources: list[Drawn], middle: tuple[float, float]) -> list[Tile]:
    """Nine images: the first around `middle`, the others at its sides and corners, cut where they would overlap."""
    height, width = sources[0].image.shape[:2]
    x1, y1 = middle[0] - width / 2, middle[1] - height / 2
    x2, y2 = x1 + width, y1 + height
    tiles = [Tile(sources[0], x1, y1)]
    cells = [(i, j) for j in (-1, 0, 1) for i in (-1, 0, 1) if (i, j) != (0, 0)]
    for source, (i, j) in zip(sources[1:], cells, strict=True):
        h, w = source.image.shape[:2]
        tile = Tile(source, (x1 - w, x1, x2)[i + 1], (y1 - h, y1, y2)[j + 1])
        across = (x1, x2) if i == 0 else (tile.x, tile.x + w)
        down = (y1, y2) if j == 0 else (tile.y, tile.y + h)
        tiles.append(tile.cropped(*across, *down))
    return tiles


def mixup(a: Drawn, b: Drawn, rng: np.random.Generator) -> Drawn:
    """Blend two views (arXiv:1710.09412); the objects of both count."""
    share = rng.beta(MIXUP_BETA, MIXUP_BETA)
    image = cv2.addWeighted(a.image, share, b.image, 1 - share, 0)
    return Drawn(image, np.concatenate([a.boxes, b.boxes]), np.concatenate([a.labels, b.labels]))


def cutmix(a: Drawn, b: Drawn, rng: np.random.Generator) -> Drawn:
    """A rectangle of the second view in the first (arXiv:1905.04899)."""
    height, width = a.image.shape[:2]
    side = np.sqrt(1 - rng.beta(1.0, 1.0))
    w, h = max(1, round(width * side)), max(1, round(height * side))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    image = a.image.copy()
    image[y : y + h, x : x + w] = b.image[y : y + h, x : x + w]
    cover = np.array([x, y, x + w, y + h])
    seen = hidden_share(a.boxes, cover[None])[:, 0] <= MAX_HIDDEN
    inside, keep = clip_boxes(b.boxes - np.array([x, y] * 2), w, h)
    boxes = np.concatenate([uncovered(a.boxes[seen], cover), inside + np.array([x, y] * 2)]).astype(np.float32)
    return Drawn(image, boxes, np.concatenate([a.labels[seen], b.labels[keep]]))


def uncovered(boxes_xyxy: np.ndarray, cover_xyxy: np.ndarray) -> np.ndarray:
    """(N, 4) boxes around what a rectangle leaves of them: less where it takes a whole side, as large as before where
    it takes a corner or a piece of a side."""
    boxes = boxes_xyxy.copy()
    for low, high in ((0, 2), (1, 3)):  # along x, along y
        other_low, other_high = 1 - low, 5 - high
        across = (cover_xyxy[other_low] <= boxes[:, other_low]) & (cover_xyxy[other_high] >= boxes[:, other_high])
        first = across & (cover_xyxy[low] <= boxes[:, low]) & (cover_xyxy[high] > boxes[:, low])
        last = across & (cover_xyxy[high] >= boxes[:, high]) & (cover_xyxy[low] < boxes[:, high])
        boxes[first, low] = cover_xyxy[high]
        boxes[last, high] = cover_xyxy[low]
    return boxes


def copy_paste(drawn: Drawn, donor: Drawn, rng: np.random.Generator) -> Drawn:
    """Objects of another image as rectangles (after arXiv:2012.07177, which has masks), where they hide no object."""
    image, boxes, labels = drawn.image.copy(), drawn.boxes, drawn.labels
    height, width = image.shape[:2]
    for k in rng.permutation(len(donor.labels))[:MAX_PASTED]:
        low = np.floor(donor.boxes[k, :2]).astype(int)
        high = np.minimum(np.ceil(donor.boxes[k, 2:]).astype(int), donor.image.shape[1::-1])
        w, h = high - low
        if w < 1 or h < 1 or w > width // 2 or h > height // 2:
            continue
        for _ in range(PLACES):
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            place = np.array([[x, y, x + w, y + h]])
            if (hidden_share(boxes, place) == 0).all():
                image[y : y + h, x : x + w] = donor.image[low[1] : high[1], low[0] : high[0]]
                pasted = donor.boxes[k] - np.tile(low, 2) + np.array([x, y, x, y])
                boxes = np.concatenate([boxes, pasted[None].astype(np.float32)])
                labels = np.append(labels, donor.labels[k])
                break
    return Drawn(image, boxes, labels)


def hidden_share(boxes_xyxy: np.ndarray, covers_xyxy: np.ndarray) -> np.ndarray:
    """(N, K) share of the area of N boxes that each of K rectangles covers."""
    low = np.maximum(boxes_xyxy[:, None, :2], covers_xyxy[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], covers_xyxy[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=-1)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    return np.asarray(inter / np.maximum(area, 1e-9)[:, None])
