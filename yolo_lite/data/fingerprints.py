"""Fingerprints of images: is the file whole, what is it byte for byte, and what does it look like.

Notation: N images.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from yolo_lite.data.decoding import JPEG_START
from yolo_lite.data.images import TAIL_BYTES, ImageProblem, inspect_image, read_image
from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.progress import LongJob

THUMBNAIL = 32
CHUNK = 256


@dataclass
class Fingerprint:
    """One image.

    Attributes:
        problem: why it cannot be used, or what is damaged; empty: nothing.
        is_damaged: it can be decoded, but not all of it is the picture.
        size: height, width of the upright image; None: cannot be told.
        digest: of the file (0: none): of all of it, or of its length and end where it was not decoded and these
            are those of no other (see `confirm`).
        gradients: 64 bits: whether brightness rises from left to right, in a grid of 8 x 8 (dHash).
        thumbnail: (32, 32) uint8 brightness; None: not decoded.
    """

    problem: str = ""
    is_damaged: bool = False
    size: tuple[int, int] | None = None
    digest: int = 0
    gradients: int = 0
    thumbnail: np.ndarray | None = None


def fingerprint_images(index: DetectionIndex, decode: bool, what: str) -> list[Fingerprint]:
    """Fingerprints of all images of a split, with progress.

    Args:
        index: the split.
        decode: decode every image in full; otherwise its header and its end are read.
        what: for the progress.
    """
    take = fingerprint if decode else quick_fingerprint
    results: list[Fingerprint] = []
    with ThreadPoolExecutor() as pool, LongJob(what, len(index)) as job:  # decoders let go of the interpreter
        for start in range(0, len(index), CHUNK):
            results += pool.map(take, [index.path(i) for i in range(start, min(start + CHUNK, len(index)))])
            job.update(len(results))
    return results


def quick_fingerprint(path: Path) -> Fingerprint:
    """Without decoding."""
    inspected = inspect_image(path)
    if isinstance(inspected, ImageProblem):
        return Fingerprint(problem=inspected.reason)
    return Fingerprint(size=inspected, digest=tail_digest(path))


def tail_digest(path: Path) -> int:
    """Digest of length and end of a file, to find candidates: uncompressed pictures that agree in both may differ.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        length = file.seek(0, io.SEEK_END)
        file.seek(max(0, length - TAIL_BYTES))
        return digest(length.to_bytes(8, "little") + file.read())


def confirm(prints: list[Fingerprint], paths: Callable[[int], Path]) -> None:
    """Where digests of length and end are equal, put those of the whole files in their place.

    Args:
        prints: all that are compared with each other.
        paths: the file of each, by its position.
    """
    counts = Counter(fingerprint.digest for fingerprint in prints)
    for i, fingerprint in enumerate(prints):
        if fingerprint.digest and counts[fingerprint.digest] > 1:
            try:
                fingerprint.digest = file_digest(paths(i))
            except OSError:  # gone in between
                fingerprint.digest = 0


def file_digest(path: Path) -> int:
    """Digest of all of a file.

    Raises:
        OSError: it cannot be read.
    """
    return digest(path.read_bytes())


def digest(data: bytes) -> int:
    """64 bits of BLAKE2b, never 0."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1


def fingerprint(path: Path) -> Fingerprint:
    """With everything decoded."""
    inspected = inspect_image(path)
    if isinstance(inspected, ImageProblem):
        return Fingerprint(problem=inspected.reason)
    try:
        data = path.read_bytes()
        grey, problem = decode_grey(path, data)
    except (OSError, UserError) as error:
        return Fingerprint(problem=str(error))
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    gradients = int.from_bytes(bits.tobytes(), "little")
    return Fingerprint(problem, bool(problem), inspected, digest(data), gradients, thumbnail)


def decode_grey(path: Path, data: bytes) -> tuple[np.ndarray, str]:
    """Decode a file in full: (H, W) uint8 brightness, and what is damaged.

    Decoders of JPEG paint over what they cannot read and say so in a warning, which only simplejpeg hands on.

    Raises:
        UserError: it cannot be decoded.
    """
    damage = ""
    if data.startswith(JPEG_START):
        try:
            return simplejpeg.decode_jpeg(data, "GRAY", strict=True)[..., 0], ""
        except ValueError as error:
            damage = str(error)
        try:
            return simplejpeg.decode_jpeg(data, "GRAY", strict=False)[..., 0], damage
        except ValueError:  # CMYK, for one, has no grey here
            damage = ""
    else:
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except Exception as error:  # Pillow raises what its plug-ins raise
            damage = str(error)
    return cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY), damage
