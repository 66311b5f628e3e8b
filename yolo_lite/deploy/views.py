"""An image as the network sees it: whole, in overlapping tiles, mirrored, smaller; and the way back.

Notation: T pixels, the side of a tile. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolo_lite.data.images import resize_image
from yolo_lite.data.letterbox import fitting_shape, letterbox
from yolo_lite.data.types import Letterbox
from yolo_lite.deploy.model_info import SIZE_DIVISOR
from yolo_lite.ops.boxes import clip_boxes
from yolo_lite.ops.postprocess import Detections, best_survivors
from yolo_lite.utils.errors import UserError

# Test-time augmentation: (mirrored, share of the usual size). A smaller picture within the same input, so that models
# for one size can do it too.
PLAIN = ((False, 1.0),)
AUGMENTED = ((False, 1.0), (True, 1.0), (False, 0.8), (True, 0.8))
# A box that ends where its tile does is a part of an object if another one covers it to this share.
PART_COVERED = 0.7
# Within so many pixels, and such a share of the tile, a box ends at its tile's side: detectors are not exact.
BORDER, BORDER_SHARE = 2.0, 0.02


@dataclass(frozen=True)
class View:
    """A part of an image, at the size at which the network sees it.

    Attributes:
        left, top, right, bottom: the part, in pixels of the image.
        mirrored: left and right are changed.
        share: of the size that just fits the input.
        is_tile: only a part is seen; what goes on beyond its sides is not.
    """

    left: int
    top: int
    right: int
    bottom: int
    mirrored: bool = False
    share: float = 1.0
    is_tile: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels of the image."""
        return self.bottom - self.top, self.right - self.left


def make_views(size: tuple[int, int], tile: int | None, overlap: float, augment: bool) -> list[View]:
    """The views of an image.

    Args:
        size: height and width of the image, pixels.
        tile: T; None: the whole image only. Tiles come besides the whole image, where large objects are found.
        overlap: of neighbouring tiles, as a share of T.
        augment: each view also mirrored, smaller, and both.
    """
    height, width = size
    looks = AUGMENTED if augment else PLAIN
    places = [(0, 0, width, height, False)]
    if tile is not None and max(size) > tile:
        rows, columns = (tile_starts(side, tile, overlap) for side in size)
        places += [(x, y, min(x + tile, width), min(y + tile, height), True) for y in rows for x in columns]
    return [View(*place[:4], mirrored, share, place[4]) for place in places for mirrored, share in looks]


def tile_starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along a side: as few as overlap at least so much, evenly spread."""
    if side <= tile:
        return [0]
    count = 1 + -(-(side - tile) // max(1, int(tile * (1 - overlap))))
    return [round(k * (side - tile) / (count - 1)) for k in range(count)]


def check_tiling(tile: int | None, overlap: float) -> None:
    """Raises:
    UserError: tiles of no use.
    """
    if tile is not None and tile < SIZE_DIVISOR:
        raise UserError(f"tile={tile}: give at least {SIZE_DIVISOR} pixels")
    if not 0 <= overlap <= 0.9:
        raise UserError(f"overlap={overlap}: give a share from 0 to 0.9")


def input_shape(
    view: View, image_size: int, input_size: tuple[int, int] | None, is_rectangular: bool
) -> tuple[int, int]:
    """(height, width) of the network's input for a view.

    Args:
        view: what is seen.
        image_size: pixels, for the longer side.
        input_size: of a model that takes one size only.
        is_rectangular: pad to the next multiples of 32 only, not to a square.
    """
    if input_size is not None:
        return input_size
    if not is_rectangular:
        return image_size, image_size
    height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in fitting_shape(*view.shape, (image_size,) * 2))
    return height, width


def see(image: np.ndarray, view: View, shape: tuple[int, int], scale: float = 1.0) -> tuple[np.ndarray, Letterbox]:
    """The input of the network for a view.

    Args:
        image: (H, W, 3) uint8 RGB; it may be a smaller copy of the image that the view is of.
        view: what is seen.
        shape: height and width of the input.
        scale: pixels of `image` per pixel of that image.

    Returns:
        (h, w, 3) uint8 of that shape, and how the part of the image lies in it.
    """
    height, width = fitting_shape(*view.shape, shape)
    if view.share != 1:
        height, width = (max(1, round(side * view.share)) for side in (height, width))
    if scale == 1:
        part = image[view.top : view.bottom, view.left : view.right]
    else:
        part = image  # a smaller copy is made for the whole image only
    part = resize_image(part, height, width)
    return letterbox(part[:, ::-1] if view.mirrored else part, np.array(shape), view.shape)


def locate(found: Detections, view: View, placed: Letterbox) -> Detections:
    """From input pixels to pixels of the image, clipped to the view."""
    x1, y1, x2, y2 = found.boxes_xyxy.unbind(1)
    x1, x2 = ((x - placed.pad_x) / placed.scale_x for x in (x1, x2))
    y1, y2 = ((y - placed.pad_y) / placed.scale_y for y in (y1, y2))
    if view.mirrored:
        x1, x2 = view.shape[1] - x2, view.shape[1] - x1
    boxes = clip_boxes(torch.stack([x1, y1, x2, y2], dim=1), *view.shape)
    offset = boxes.new_tensor([view.left, view.top, view.left, view.top])
    return Detections(boxes + offset, found.scores, found.labels)


def merge(
    parts: list[tuple[View, Detections]], size: tuple[int, int], iou_threshold: float, max_detections: int
) -> Detections:
    """What several views of one image found, each object once.

    Args:
        parts: detections in pixels of the image.
        size: its height and width.
        iou_threshold: of two boxes of one class that overlap more, the better stays.
        max_detections: keep at most so many.
    """
    if len(parts) == 1:
        return parts[0][1]
    boxes = torch.cat([found.boxes_xyxy for _, found in parts])
    scores, labels = (torch.cat([getattr(found, key) for _, found in parts]) for key in ("scores", "labels"))
    is_cut = torch.cat([ends_at_border(found.boxes_xyxy, view, size) for view, found in parts])
    whole = ~(is_cut & is_covered(boxes, is_cut))
    boxes, scores, labels = boxes[whole], scores[whole], labels[whole]
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    keep = best_survivors(boxes, scores, labels, iou_threshold, max_detections)
    return Detections(boxes[keep], scores[keep], labels[keep])


def ends_at_border(boxes_xyxy: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """(D,) bool: a box ends at a side of its tile where the image goes on."""
    if not view.is_tile:
        return torch.zeros(len(boxes_xyxy), dtype=torch.bool)
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    is_cut = torch.zeros(len(boxes_xyxy), dtype=torch.bool)
    border = max(BORDER, BORDER_SHARE * max(view.shape))
    if view.left > 0:
        is_cut |= x1 < view.left + border
    if view.top > 0:
        is_cut |= y1 < view.top + border
    if view.right < size[1]:
        is_cut |= x2 > view.right - border
    if view.bottom < size[0]:
        is_cut |= y2 > view.bottom - border
    return is_cut


def is_covered(boxes_xyxy: Tensor, is_cut: Tensor) -> Tensor:
    """(D,) bool: a larger box covers this one for the most part, whatever its class: that of a part is often wrong.

    Only boxes that are cut are compared with all: a crowd in many tiles would need a matrix of all pairs.
    """
    covered = torch.zeros(len(boxes_xyxy), dtype=torch.bool)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(dim=1)
    for i in is_cut.nonzero().squeeze(1).tolist():
        low = torch.maximum(boxes_xyxy[i, :2], boxes_xyxy[:, :2])
        high = torch.minimum(boxes_xyxy[i, 2:], boxes_xyxy[:, 2:])
        common = (high - low).clamp(min=0).prod(dim=1)
        covered[i] = ((common > PART_COVERED * area[i]) & (area > area[i])).any()
    return covered
