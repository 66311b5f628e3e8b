"""Decoded and resized images, kept in memory or in a file that all workers and processes share.

Filled as they are first used. Notation: N images.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch

from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import temporary_path
from yolo_lite.utils.memory import free_memory

# Raised whenever the bytes in a cache file would be others for the same images.
FILE_VERSION = 2
MARK = np.dtype(np.uint64)

Array = np.ndarray | torch.Tensor


def pixel_offsets(shapes: np.ndarray) -> np.ndarray:
    """(N + 1,) where each image of (N, 2) height, width starts and the last one ends, in bytes."""
    return np.concatenate([[0], np.cumsum(shapes.astype(np.int64).prod(axis=1) * 3)])


class ImageCache:
    """Images of known shapes in one long array.

    Args:
        shapes: (N, 2) int height, width of each resized image.
        pixels: (bytes of all,) uint8.
        marks: (N,) integers, 0 where the image is not there yet.
    """

    def __init__(self, shapes: np.ndarray, pixels: Array, marks: Array) -> None:
        self._shapes = shapes
        self._offsets = pixel_offsets(shapes)
        self._pixels = pixels
        self._marks = marks

    def _view(self, i: int) -> np.ndarray:
        height, width = self._shapes[i]
        pixels = self._pixels[self._offsets[i] : self._offsets[i + 1]]
        return np.asarray(pixels).reshape(height, width, 3)

    def has(self, i: int) -> bool:
        """The image has been stored, by whomever."""
        return bool(self._marks[i])

    def get(self, i: int) -> np.ndarray | None:
        """The image, not to be written to, or None where it is not there yet."""
        return self._view(i) if self.has(i) else None

    def put(self, i: int, image: np.ndarray) -> None:
        """Store; two processes that store the same image at once write the same bytes."""
        self._view(i)[...] = image
        self._marks[i] = 1


def memory_cache(shapes: np.ndarray) -> ImageCache:
    """In memory that the workers share."""
    pixels = torch.empty(int(pixel_offsets(shapes)[-1]), dtype=torch.uint8).share_memory_()
    return ImageCache(shapes, pixels, torch.zeros(len(shapes), dtype=torch.uint8).share_memory_())


def memory_room(processes: int = 1) -> int:
    """Bytes that a memory cache may take: half of the free memory, within what the shared-memory file system has.

    Args:
        processes: that train on this machine; each has a cache of its own, and all see the same free memory.
    """
    free = free_memory()
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else free
    return min(free // 2, shared * 9 // 10) // processes


class DiskCache(ImageCache):
    """A memory-mapped file, for all processes that train on these images at this size, now and later.

    Its name follows from the files' names, sizes and times and from the image size: where one of them changes, another
    cache is used. A sent copy holds the path alone and maps the file again.

    The system writes the pages of a map back in whatever order it likes, so after a power cut a flag may be on the disk
    and its pixels not. The mark of an image is its checksum instead, and what does not agree is not there. A process
    compares once, when it first reads an image: a tenth of the time of decoding it.

    Args:
        folder: where cache files are; created.
        index: the images.
        image_size: their longer side, pixels.
        shapes: (N, 2) int height, width of each resized image.

    Raises:
        UserError: the disk has no room for it, the folder cannot be written to, or an image is gone.
    """

    def __init__(self, folder: Path, index: DetectionIndex, image_size: int, shapes: np.ndarray) -> None:
        self.path = folder / f"{fingerprint(index, image_size)}.pixels"
        total = len(shapes) * MARK.itemsize + int(pixel_offsets(shapes)[-1])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            reserve(self.path, total)
        except OSError as error:
            raise UserError(
                f"the image cache {self.path} needs {total / 2**30:.1f} GiB: {error.strerror}; free space, choose "
                "another --data.cache_dir, or use --data.cache none"
            ) from None
        self._map(shapes)

    def _map(self, shapes: np.ndarray) -> None:
        content = np.asarray(np.memmap(self.path, np.uint8, "r+"))
        start = len(shapes) * MARK.itemsize
        super().__init__(shapes, content[start:], content[:start].view(MARK))
        self._is_checked = np.zeros(len(shapes), dtype=bool)

    def get(self, i: int) -> np.ndarray | None:
        image = super().get(i)
        if image is not None and not self._is_checked[i]:
            if self._marks[i] != checksum(image):
                return None
            self._is_checked[i] = True
        return image

    def put(self, i: int, image: np.ndarray) -> None:
        view = self._view(i)
        view[...] = image
        self._marks[i] = checksum(view)
        self._is_checked[i] = True

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "shapes": self._shapes}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.path = Path(str(state["path"]))
        self._map(np.asarray(state["shapes"]))


def checksum(image: np.ndarray) -> int:
    """CRC-32 of the pixels, and a bit above it, so that it is never 0."""
    return zlib.crc32(image.data) | 1 << 32


def fingerprint(index: DetectionIndex, image_size: int) -> str:
    """Of everything that the pixels of a cache depend on.

    Raises:
        UserError: an image is gone since the images were checked.
    """
    digest = hashlib.sha256(f"{FILE_VERSION} {image_size} {index.image_dir.resolve()}".encode())
    for i in range(len(index)):
        try:
            status = index.path(i).stat()
        except OSError as error:
            raise UserError(
                f"cannot read image {index.path(i)}: {error.strerror}; it was there when the images were checked: "
                "restore it, or start again"
            ) from None
        digest.update(f"{index.file_names[i]} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def reserve(path: Path, size: int) -> None:
    """A file of zeros, on blocks of its own, unless it is there: writing to a map on a full disk would be a crash.

    A file of another size, which a power cut or an interrupted copy leaves, is replaced.
    """
    size = max(1, size)
    if path.exists():
        if path.stat().st_size == size:
            return
        path.unlink(missing_ok=True)
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # the first of several processes makes it, the others use that one
    finally:
        temporary.unlink(missing_ok=True)
