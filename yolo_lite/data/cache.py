"""Decoded and resized images, kept in memory or in a file that all workers and processes share.

Filled as they are first used. Notation: N images.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import temporary_path

# Raised whenever the bytes in a cache file would be others for the same images.
FILE_VERSION = 1

Bytes = np.ndarray | torch.Tensor


def pixel_offsets(shapes: np.ndarray) -> np.ndarray:
    """(N + 1,) where each image of (N, 2) height, width starts and the last one ends, in bytes."""
    return np.concatenate([[0], np.cumsum(shapes.astype(np.int64).prod(axis=1) * 3)])


class ImageCache:
    """Images of known shapes in one long array.

    Args:
        shapes: (N, 2) int height, width of each resized image.
        pixels: (bytes of all,) uint8.
        is_filled: (N,) uint8, 1 where the image is there.
    """

    def __init__(self, shapes: np.ndarray, pixels: Bytes, is_filled: Bytes) -> None:
        self._shapes = shapes
        self._offsets = pixel_offsets(shapes)
        self._pixels = pixels
        self._is_filled = is_filled

    def _view(self, i: int) -> np.ndarray:
        height, width = self._shapes[i]
        pixels = self._pixels[self._offsets[i] : self._offsets[i + 1]]
        return np.asarray(pixels).reshape(height, width, 3)

    def get(self, i: int) -> np.ndarray | None:
        """The image, not to be written to, or None where it is not there yet."""
        return self._view(i) if self._is_filled[i] else None

    def put(self, i: int, image: np.ndarray) -> None:
        """Store; two processes that store the same image at once write the same bytes."""
        self._view(i)[...] = image
        self._is_filled[i] = 1


def memory_cache(shapes: np.ndarray) -> ImageCache:
    """In memory that the workers share."""
    pixels = torch.empty(int(pixel_offsets(shapes)[-1]), dtype=torch.uint8).share_memory_()
    return ImageCache(shapes, pixels, torch.zeros(len(shapes), dtype=torch.uint8).share_memory_())


def memory_room() -> int:
    """Bytes that a memory cache may take: half of the free memory, within what the shared-memory file system has."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    try:
        with open("/proc/meminfo") as file:
            available = next(line for line in file if line.startswith("MemAvailable"))
            free = int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else free
    return min(free // 2, shared * 9 // 10)


class DiskCache(ImageCache):
    """A memory-mapped file, for all processes that train on these images at this size, now and later.

    Its name follows from the files' names, sizes and times and from the image size: where one of them changes, another
    cache is used. A sent copy holds the paths alone and maps the file again.

    Args:
        folder: where cache files are; created.
        index: the images.
        image_size: their longer side, pixels.
        shapes: (N, 2) int height, width of each resized image.

    Raises:
        UserError: the disk has no room for it, or the folder cannot be written to.
    """

    def __init__(self, folder: Path, index: DetectionIndex, image_size: int, shapes: np.ndarray) -> None:
        self.path = folder / f"{fingerprint(index, image_size)}.pixels"
        total = int(pixel_offsets(shapes)[-1])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            reserve(self.path.with_suffix(".filled"), len(shapes))
            reserve(self.path, total)
        except OSError as error:
            raise UserError(
                f"the image cache {self.path} needs {total / 2**30:.1f} GiB: {error.strerror}; free space, choose "
                "another --data.cache_dir, or use --data.cache none"
            ) from None
        self._map(shapes)

    def _map(self, shapes: np.ndarray) -> None:
        pixels = np.memmap(self.path, np.uint8, "r+")
        super().__init__(shapes, pixels, np.memmap(self.path.with_suffix(".filled"), np.uint8, "r+"))

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "shapes": self._shapes}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.path = Path(str(state["path"]))
        self._map(np.asarray(state["shapes"]))


def fingerprint(index: DetectionIndex, image_size: int) -> str:
    """Of everything that the pixels of a cache depend on."""
    digest = hashlib.sha256(f"{FILE_VERSION} {image_size} {index.image_dir.resolve()}".encode())
    for i in range(len(index)):
        status = index.path(i).stat()
        digest.update(f"{index.file_names[i]} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def reserve(path: Path, size: int) -> None:
    """A file of zeros, on blocks of its own, unless it is there: writing to a map on a full disk would be a crash."""
    if path.exists():
        return
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(1, size))
            file.truncate(max(1, size))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # the first of several processes makes it, the others use that one
    finally:
        temporary.unlink(missing_ok=True)
