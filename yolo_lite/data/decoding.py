"""Decode any image file to upright 8-bit RGB.

Grey is repeated, a palette looked up, CMYK mixed without colour profiles. Of 16 bits the upper 8 are kept: full scale
stays full scale and images stay comparable; data that uses 10 or 12 of 16 bits must be stretched before training. What
is transparent shows `BACKGROUND`. Of an animation the first picture counts.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image, ImageChops

BACKGROUND = 114  # the grey of the letterbox
MAX_PIXELS = 2**30  # as in OpenCV; the header of a damaged file may ask for any amount of memory
DEEP_MODES = ("I", "F")
DEEP_PIXELS = "pixels of 32 bits, whose black and white nobody knows: save it with 8 or 16"
# Formats that OpenCV decodes as Pillow does, faster, where the pixels are grey or RGB.
SAME_IN_OPENCV = ("JPEG", "MPO", "PNG", "BMP", "WEBP")
JPEG_START = b"\xff\xd8"
# Markers of a frame, which tell the number of its components: SOF0 to SOF15 without DHT, JPG and DAC.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
APP1 = 0xE1  # EXIF or XMP
START_OF_SCAN = 0xDA
EXIF_ORIENTATION = 274


def decode_image(data: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB from the (K,) uint8 bytes of a file.

    Raises:
        Exception: it cannot be decoded; of whatever type the libraries raise.
    """
    if not len(data):
        raise ValueError("the file is empty")
    is_jpeg = data[:2].tobytes() == JPEG_START
    # This look at the markers takes 10 us, Pillow's at the header 80, decoding 640x480 pixels 2,400.
    if is_jpeg and scan_jpeg(data) == (True, False):
        return decode_with_opencv(data)
    with Image.open(io.BytesIO(data.tobytes())) as picture:
        orientation = exif_orientation(picture)
        is_plain = picture.mode in ("L", "RGB") and "transparency" not in picture.info
        if is_plain and picture.format in SAME_IN_OPENCV:
            return turn_upright(decode_with_opencv(data), orientation)
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} are more than 2^30 pixels")
        # Adobe stores CMYK inverted and says so by its marker. Pillow takes every CMYK JPEG for one of Adobe's.
        is_inverted = is_jpeg and picture.mode == "CMYK" and "adobe" not in picture.info
        image = to_rgb(ImageChops.invert(picture) if is_inverted else picture)
        return turn_upright(image, orientation)


def exif_orientation(picture: Image.Image) -> int:
    """EXIF's number from 1 to 8 for how a picture lies, from its header; of TIFF, which Pillow turns itself, 1."""
    # Where no EXIF came with the header, a PNG's getexif() would decode the whole file to look behind it.
    if "exif" not in picture.info:
        return 1
    orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo what EXIF's number says, from 1 (upright) to 8. The same number gave the size that was inspected."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def decode_with_opencv(data: np.ndarray) -> np.ndarray:
    """Grey or RGB, as it is stored.

    Raises:
        ValueError: it cannot be decoded.
    """
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err}") from None
    if image is None:
        raise ValueError("its pixels are damaged")
    return image


def scan_jpeg(data: np.ndarray) -> tuple[bool, bool]:
    """Whether a JPEG has 1 or 3 colour components (grey or colour, not CMYK), and whether it may have EXIF."""
    is_plain = has_exif = False
    position = 2
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = int(data[position + 1])
        if marker == START_OF_SCAN:
            break
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in FRAMES:
            is_plain = int(data[position + 9]) in (1, 3)
        has_exif |= marker == APP1
        position += 2 + int(data[position + 2]) * 256 + int(data[position + 3])
    return is_plain, has_exif


def to_rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of a picture of any mode, as it is stored.

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
