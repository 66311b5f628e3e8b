"""Small copies of images for pages that carry their pictures inside."""

from __future__ import annotations

import cv2
import numpy as np

from yolo_lite.data.images import ImageFiles, decode_file, resize_image, resized_shape

JPEG_QUALITY = 80


def read_small(files: ImageFiles, i: int, longest: int, may_grow: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 RGB with its longer side `longest`, and the (4,) factors of xyxy pixels to its own.

    Args:
        files: of the data set, in a folder or streamed.
        i: which of them.
        longest: pixels.
        may_grow: enlarge smaller images to that size.

    Raises:
        UserError: it cannot be decoded.
    """
    image = decode_file(files.read(i), files.name(i))
    height, width = image.shape[:2]
    if may_grow or max(height, width) > longest:
        height, width = resized_shape(height, width, longest)
    scale = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    return resize_image(image, height, width), scale


def encode_jpeg(image: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """An (H, W, 3) uint8 RGB image as JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes())
