"""Image files: a quick check of the file, decoding to upright RGB, resizing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from yolo_lite.data.decoding import (
    DEEP_MODES,
    DEEP_PIXELS,
    JPEG_START,
    MAX_PIXELS,
    decode_image,
    exif_orientation,
    has_sixteen_bits,
    scan_jpeg,
)
from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.errors import UserError

# The last marker of a complete file; writers may append a little after it.
END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
TAIL_BYTES = 4096
HEIC_SUFFIXES = (".heic", ".heif")  # the decoders that there are for Python come with libraries under the GPL
Image.MAX_IMAGE_PIXELS = None  # large aerial images are legitimate; nothing here trusts unknown senders


@dataclass(frozen=True)
class ImageProblem:
    """Why an image cannot be used."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def inspect_image(path: Path) -> tuple[int, int] | ImageProblem:
    """(height, width) of the upright image, or what is wrong with the file.

    Of JPEG and PNG the header and the end are read, and all of the file where its end is not the picture's; formats
    whose end cannot be told are decoded.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            width, height = image.size
            if exif_orientation(image) >= 5:
                width, height = height, width
            if width * height > MAX_PIXELS:
                return ImageProblem(path, f"{width}x{height} are more than 2^30 pixels")
            if image.mode in DEEP_MODES and not has_sixteen_bits(image):
                return ImageProblem(path, DEEP_PIXELS)
            marker = END_MARKERS.get(image.format or "")
            if marker is None:
                image.load()
            else:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                if marker not in file.read() and not is_whole(image, file, marker):
                    return ImageProblem(path, "truncated")
    except FileNotFoundError:
        return ImageProblem(path, "missing")
    except OSError as error:
        unknown = "HEIC, which is not read: save it as JPEG" if path.suffix.lower() in HEIC_SUFFIXES else "not an image"
        return ImageProblem(path, unknown if error.errno is None else str(error.strerror))
    except Exception as error:  # PIL raises what its plug-ins raise, SyntaxError included
        return ImageProblem(path, f"unreadable: {error}")
    return height, width


def is_whole(image: Image.Image, file: BinaryIO, marker: bytes) -> bool:
    """A picture without a marker at the end of its file is all there: cameras append kilobytes, even whole films.

    The marker alone proves nothing, as what is appended may hold the same bytes; pixels alone neither, as decoders add
    the last few. A thumbnail in the header of a JPEG has a marker of its own.
    """
    file.seek(0)
    data = file.read()
    start = scan_jpeg(np.frombuffer(data, np.uint8)).scan if data.startswith(JPEG_START) else 0
    if marker not in data[start:]:
        return False
    try:
        image.load()
    except OSError:
        return False
    return True


def inspect_images(paths: list[Path]) -> list[tuple[int, int] | ImageProblem]:
    """`inspect_image` of each, in order."""
    with ThreadPoolExecutor(max_workers=8) as pool:  # the files may lie on a network disk
        return list(pool.map(inspect_image, paths, chunksize=64))


def read_image(path: Path, at_least: int | None = None) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB, upright, as `decode_image` describes.

    Args:
        path: the file.
        at_least: a JPEG may come out smaller, by 2, 4 or 8, as long as its longer side keeps so many pixels.

    Raises:
        UserError: it cannot be read or decoded.
    """
    return decode_file(read_file(path), path, at_least)


def read_file(path: Path) -> np.ndarray:
    """The (K,) uint8 bytes of an image file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror}") from None


def decode_file(data: np.ndarray, name: Path | str, at_least: int | None = None) -> np.ndarray:
    """`decode_image`, with an error that names the file.

    Raises:
        UserError: it cannot be decoded.
    """
    try:
        return decode_image(data, at_least)
    except Exception as error:  # PIL raises what its plug-ins raise
        raise UserError(f"cannot decode image {name}: {error}") from None


class ImageFiles:
    """The image files of an index, in their folder.

    Args:
        index: the split.
    """

    can_be_cached = True

    def __init__(self, index: DetectionIndex) -> None:
        self.index = index

    def start(self, epoch: int, i: int) -> None:
        """Image `i` is the next one of training; told before it and the images it is combined with are read."""

    def read(self, i: int) -> np.ndarray:
        """(K,) uint8 bytes of the file of image `i`.

        Raises:
            UserError: it cannot be read.
        """
        return read_file(self.index.path(i))

    def name(self, i: int) -> str:
        """What messages call image `i`."""
        return str(self.index.path(i))


def resized_shape(height: int, width: int, longest: int) -> tuple[int, int]:
    """Shape with the longer side `longest` and the aspect ratio kept to a pixel."""
    ratio = longest / max(height, width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize: by area where it shrinks (no aliasing), bilinear where it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
