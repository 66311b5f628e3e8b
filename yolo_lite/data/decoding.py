"""Decode any image file to upright 8-bit RGB.

Grey is repeated, a palette looked up, CMYK mixed without colour profiles. Of 16 bits the upper 8 are kept: full scale
stays full scale and images stay comparable; data that uses 10 or 12 of 16 bits must be stretched before training. What
is transparent shows `BACKGROUND`. Of an animation the first picture counts.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageOps

BACKGROUND = 114  # the grey of the letterbox
MAX_PIXELS = 2**30  # as in OpenCV; the header of a damaged file may ask for any amount of memory
DEEP_MODES = ("I", "F")
DEEP_PIXELS = "pixels of 32 bits, whose black and white nobody knows: save it with 8 or 16"
# Formats that OpenCV decodes as Pillow does, faster, where the pixels are grey or RGB.
SAME_IN_OPENCV = ("PNG", "BMP", "WEBP")
JPEG_START = b"\xff\xd8"
# OpenCV's modes that decode a JPEG at a fraction of its size, by the divisor; they know BGR only.
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
# Markers of a frame, which tells size and components: SOF0 to SOF15 without DHT, JPG and DAC.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode_image(data: np.ndarray, at_least: int | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB from the (K,) uint8 bytes of a file.

    Args:
        data: the bytes.
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which takes less time, as long as its longer
            side keeps so many pixels; None: at its size.

    Raises:
        Exception: it cannot be decoded; of whatever type the libraries raise.
    """
    if not len(data):
        raise ValueError("the file is empty")
    start = data[:2].tobytes()
    # A look at the frame costs microseconds, Pillow's at the header 80 of the 2,400 that decoding 640x480 pixels takes.
    if start == JPEG_START and (frame := jpeg_frame(data)) is not None and frame.components in (1, 3):
        longer = max(frame.height, frame.width)
        steps = [step for step in REDUCED if at_least is not None and longer // step >= at_least]
        return decode_with_opencv(data, REDUCED[max(steps)] if steps else cv2.IMREAD_COLOR_RGB)
    with Image.open(io.BytesIO(data.tobytes())) as picture:
        if picture.format in SAME_IN_OPENCV and picture.mode in ("L", "RGB") and "transparency" not in picture.info:
            return decode_with_opencv(data)
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} are more than 2^30 pixels")
        # Adobe stores CMYK inverted and says so by its marker. Pillow takes every CMYK JPEG for one of Adobe's.
        is_inverted = start == JPEG_START and picture.mode == "CMYK" and "adobe" not in picture.info
        upright = ImageOps.exif_transpose(picture)
        if is_inverted:
            upright = ImageChops.invert(upright)
        return np.ascontiguousarray(to_rgb(upright))


def decode_with_opencv(data: np.ndarray, mode: int = cv2.IMREAD_COLOR_RGB) -> np.ndarray:
    """Grey or RGB, turned upright; `mode` is OpenCV's.

    Raises:
        ValueError: it cannot be decoded.
    """
    try:
        image = cv2.imdecode(data, mode)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err}") from None
    if image is None:
        raise ValueError("its pixels are damaged")
    return image if mode == cv2.IMREAD_COLOR_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


class Frame(NamedTuple):
    """What the frame header of a JPEG says; components: 1 grey, 3 colour, 4 CMYK."""

    height: int
    width: int
    components: int


def jpeg_frame(data: np.ndarray) -> Frame | None:
    """The frame header of a JPEG; None where none is found."""
    position = 2
    while position + 9 < len(data):
        marker = int(data[position + 1])
        if data[position] != 0xFF:
            return None
        if marker in FRAMES:
            height, width = (int(data[position + k]) * 256 + int(data[position + k + 1]) for k in (5, 7))
            return Frame(height, width, int(data[position + 9]))
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        position += 2 + int(data[position + 2]) * 256 + int(data[position + 3])
    return None


def to_rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of an upright picture of any mode.

    Raises:
        ValueError: its pixels have 32 bits.
    """
    if picture.mode in DEEP_MODES:
        raise ValueError(DEEP_PIXELS)
    if picture.mode.startswith("I;16"):
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        ground = Image.new("RGBA", seen.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        picture = Image.alpha_composite(ground, seen)
    return np.asarray(picture.convert("RGB"))
