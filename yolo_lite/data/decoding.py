"""Decode any image file to upright 8-bit RGB.

Grey is repeated, a palette looked up, CMYK mixed without colour profiles. Of 16 bits the upper 8 are kept: full scale
stays full scale and images stay comparable; data that uses 10 or 12 of 16 bits must be stretched before training. What
is transparent shows the grey of the letterbox. Of an animation the first picture counts.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageChops

from yolo_lite.data.geometry import FILL

MAX_PIXELS = 2**30  # as in OpenCV; the header of a damaged file may ask for any amount of memory
DEEP_MODES = ("I", "F")
DEEP_PIXELS = "pixels of 32 bits, whose black and white nobody knows: save it with 8 or 16"
# Formats that OpenCV decodes as Pillow does, faster, where the pixels are grey or RGB.
SAME_IN_OPENCV = ("JPEG", "MPO", "PNG", "BMP", "WEBP")
JPEG_START = b"\xff\xd8"
# Markers of a frame, which tell the number of its components: SOF0 to SOF15 without DHT, JPG and DAC.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# OpenCV's modes that decode a JPEG at a fraction of its size, by the divisor; they know BGR only.
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
APP1 = 0xE1  # EXIF or XMP
START_OF_SCAN = 0xDA
EXIF_ORIENTATION = 274


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
    is_jpeg = data[:2].tobytes() == JPEG_START
    # This look at the markers takes 10 us, Pillow's at the header 80, decoding 640x480 pixels 2,400.
    if is_jpeg and (header := scan_jpeg(data)).is_plain and not header.has_exif:
        return decode_with_opencv(data, divisor(header.longer, at_least))
    with Image.open(io.BytesIO(data.tobytes())) as picture:
        orientation = exif_orientation(picture)
        is_plain = picture.mode in ("L", "RGB") and "transparency" not in picture.info
        if is_plain and picture.format in SAME_IN_OPENCV:
            longer = max(picture.size) if is_jpeg else 0
            return turn_upright(decode_with_opencv(data, divisor(longer, at_least)), orientation)
        return decode_picture(picture)


def decode_picture(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image of Pillow, turned as its EXIF data says.

    Raises:
        Exception: it cannot be decoded; of whatever type Pillow raises.
    """
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width}x{picture.height} are more than 2^30 pixels")
    # Adobe stores CMYK inverted and says so by its marker. Pillow takes every CMYK JPEG for one of Adobe's.
    is_jpeg = picture.format in ("JPEG", "MPO")
    is_inverted = is_jpeg and picture.mode == "CMYK" and "adobe" not in picture.info
    image = to_rgb(ImageChops.invert(picture) if is_inverted else picture)
    return turn_upright(image, exif_orientation(picture))


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


def divisor(longer: int, at_least: int | None) -> int:
    """By how much a JPEG with so many pixels along its longer side may be decoded smaller: 1, 2, 4 or 8."""
    return max((step for step in REDUCED if at_least is not None and longer // step >= at_least), default=1)


def decode_with_opencv(data: np.ndarray, smaller: int = 1) -> np.ndarray:
    """Grey or RGB, as it is stored; a JPEG also `smaller` by 2, 4 or 8.

    Raises:
        ValueError: it cannot be decoded.
    """
    try:
        image = cv2.imdecode(data, REDUCED.get(smaller, cv2.IMREAD_COLOR_RGB) | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err}") from None
    if image is None:
        raise ValueError("its pixels are damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image) if smaller in REDUCED else image


class Header(NamedTuple):
    """What the markers of a JPEG say: 1 or 3 components (grey or colour, not CMYK), perhaps EXIF, the longer side,
    and where the pixels begin."""

    is_plain: bool
    has_exif: bool
    longer: int
    scan: int


def scan_jpeg(data: np.ndarray) -> Header:
    """Look at the markers up to the first scan."""
    is_plain = has_exif = False
    longer = 0
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
            longer = max(int(data[position + k]) * 256 + int(data[position + k + 1]) for k in (5, 7))
        has_exif |= marker == APP1
        position += 2 + int(data[position + 2]) * 256 + int(data[position + 3])
    return Header(is_plain, has_exif, longer, position)


def has_sixteen_bits(picture: Image.Image) -> bool:
    """Full scale is 65535. Pillow gives a PGM of 16 bits, whatever its own full scale, in integers of 32."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM")


def to_rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of a picture of any mode, as it is stored.

    Raises:
        ValueError: its pixels have 32 bits.
    """
    if has_sixteen_bits(picture):
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode in DEEP_MODES:
        raise ValueError(DEEP_PIXELS)
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        ground = Image.new("RGBA", seen.size, (FILL, FILL, FILL, 255))
        picture = Image.alpha_composite(ground, seen)
    return np.asarray(picture.convert("RGB"))
