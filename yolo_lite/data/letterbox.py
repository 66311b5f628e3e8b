"""How an image becomes the network's input: resized by its longer side, centred on grey."""

from __future__ import annotations

import numpy as np

from yolo_lite.data.geometry import FILL
from yolo_lite.data.types import Letterbox


def letterbox(
    image: np.ndarray, size: int | np.ndarray, original_size: tuple[int, int]
) -> tuple[np.ndarray, Letterbox]:
    """Centre an image on grey.

    Args:
        image: (h, w, 3) uint8, not larger than the output.
        size: side of the square output, or its height and width, pixels.
        original_size: (height, width) before the image was resized.
    """
    out_height, out_width = (int(side) for side in np.broadcast_to(size, 2))
    height, width = image.shape[:2]
    top, left = (out_height - height) // 2, (out_width - width) // 2
    canvas = np.full((out_height, out_width, 3), FILL, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas, Letterbox(width / original_size[1], height / original_size[0], left, top)


def fitting_shape(height: int, width: int, room: tuple[int, int]) -> tuple[int, int]:
    """Shape of an image of `height` x `width` at the size that just fits into `room` (height, width), pixels."""
    ratio = min(room[0] / height, room[1] / width)
    return max(1, min(room[0], round(height * ratio))), max(1, min(room[1], round(width * ratio)))
