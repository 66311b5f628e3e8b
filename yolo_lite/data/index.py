"""The index of a data set: what is where, in a few contiguous arrays instead of millions of Python objects.

Workers inherit it without copying: arrays have no reference counts to write to, lists of dicts do. Saved and opened
again, its arrays are maps of files, which all processes share, and a worker that is spawned is sent the folder alone.
Notation: N images, M annotations.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.utils.errors import UserError

# Raised whenever a saved index would be read wrongly, or would hold something else for the same annotations.
FORMAT = 1
HEADER = "header.json"
ARRAYS = ("image_ids", "sizes", "offsets", "boxes_xywh", "labels", "areas", "is_crowd", "is_trainable")
NAMES = ("file_names.bytes", "file_names.offsets")


class PackedStrings:
    """An immutable sequence of strings in one byte array."""

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [s.encode() for s in strings]
        self.offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(s) for s in encoded], out=self.offsets[1:])
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    @classmethod
    def wrap(cls, data: np.ndarray, offsets: np.ndarray) -> PackedStrings:
        """Over arrays that are there already.

        Args:
            data: (bytes,) uint8, UTF-8.
            offsets: (N + 1,) int64: string i is `data[offsets[i] : offsets[i + 1]]`.
        """
        packed = cls([])
        packed.bytes, packed.offsets = data, offsets
        return packed

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        return self.bytes[self.offsets[i] : self.offsets[i + 1]].tobytes().decode()

    def select(self, keep: np.ndarray) -> PackedStrings:
        """Those at the positions `keep` (ascending)."""
        lengths = np.diff(self.offsets)
        data = self.bytes[ranges(lengths, keep)]
        return PackedStrings.wrap(data, np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64))


def ranges(lengths: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Positions of the items of the groups `keep` (ascending), where groups of `lengths` (N,) follow each other."""
    is_kept = np.zeros(len(lengths), dtype=bool)
    is_kept[keep] = True
    return np.flatnonzero(np.repeat(is_kept, lengths))


@dataclass
class DetectionIndex:
    """Images and annotations of one split.

    Attributes:
        source: the annotation file.
        image_dir: the folder that `file_names` are relative to.
        class_names: by class index.
        category_ids: the file's category id by class index.
        file_names: N file names.
        image_ids: (N,) int64 ids in the file.
        sizes: (N, 2) int32 height, width.
        offsets: (N + 1,) int64: the annotations of image i are rows `offsets[i]` to `offsets[i + 1]`.
        boxes_xywh: (M, 4) float32 left, top, width, height in pixels, exactly as in the file: scoring uses these.
        labels: (M,) int32 class indices.
        areas: (M,) float32 square pixels, as in the file (of the mask, in COCO).
        is_crowd: (M,) bool.
        is_trainable: (M,) bool: not a crowd, and something of it lies inside the image.
        saved: the folder and the number of the saved index that the arrays are maps of; they are not to be exchanged
            then, as copies sent to other processes hold these two alone. None: they are in memory.
    """

    source: Path
    image_dir: Path
    class_names: list[str]
    category_ids: list[int]
    file_names: PackedStrings
    image_ids: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    boxes_xywh: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray
    is_trainable: np.ndarray
    saved: tuple[Path, str] | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, i: int) -> Path:
        """The image file."""
        return self.image_dir / self.file_names[i]

    def rows(self, i: int) -> slice:
        """Where the annotations of image `i` are."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def training_boxes(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes to learn from: (N, 4) float32 xyxy in pixels, clipped to the image, and their (N,) int64 labels."""
        rows = self.rows(i)
        keep = self.is_trainable[rows]
        boxes = self.boxes_xywh[rows][keep]
        xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        height, width = self.sizes[i]
        limit = np.array([width, height, width, height], dtype=np.float32)
        return np.clip(xyxy, 0, limit), self.labels[rows][keep].astype(np.int64)

    def select(self, keep: np.ndarray) -> DetectionIndex:
        """The index of the images at the positions `keep` (ascending)."""
        counts = np.diff(self.offsets)
        rows = ranges(counts, keep)
        return DetectionIndex(
            source=self.source,
            image_dir=self.image_dir,
            class_names=self.class_names,
            category_ids=self.category_ids,
            file_names=self.file_names.select(keep),
            image_ids=self.image_ids[keep],
            sizes=self.sizes[keep],
            offsets=np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64),
            boxes_xywh=self.boxes_xywh[rows],
            labels=self.labels[rows],
            areas=self.areas[rows],
            is_crowd=self.is_crowd[rows],
            is_trainable=self.is_trainable[rows],
        )

    def save(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        """Write to a new folder: whole or not at all. Where several processes do it at once, the first one's stays.

        Args:
            folder: where to; its parent is created.
            notes: what else to keep in the header, for `read_header`.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        header = {
            "format": FORMAT,
            "number": uuid.uuid4().hex,
            "source": str(self.source.absolute()),
            "image_dir": str(self.image_dir.absolute()),
            "class_names": self.class_names,
            "category_ids": self.category_ids,
            "notes": notes or {},
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            for name in ARRAYS:
                save_array(temporary / f"{name}.npy", getattr(self, name))
            save_array(temporary / f"{NAMES[0]}.npy", self.file_names.bytes)
            save_array(temporary / f"{NAMES[1]}.npy", self.file_names.offsets)
            with open(temporary / HEADER, "w") as file:
                json.dump(header, file)
                os.fsync(file.fileno())
            temporary.chmod(0o755)
            with contextlib.suppress(FileExistsError):
                rename_new(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def open(cls, folder: Path) -> DetectionIndex:
        """A saved index, mapped into memory: quick, and shared by all processes that open it.

        Raises:
            UserError: it is not there, incomplete or of another version.
        """
        header = read_header(folder)
        try:
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*ARRAYS, *NAMES)}
        except (OSError, ValueError) as error:
            raise UserError(f"cannot open the saved index {folder}: {error}; delete it") from None
        data, offsets = (np.asarray(arrays.pop(name)) for name in NAMES)
        index = cls(
            source=Path(header["source"]),
            image_dir=Path(header["image_dir"]),
            class_names=header["class_names"],
            category_ids=header["category_ids"],
            file_names=PackedStrings.wrap(data, offsets),
            # As plain arrays: numpy's memmap class is slower at every access.
            **{name: np.asarray(array) for name, array in arrays.items()},
        )
        index.saved = (folder.absolute(), header["number"])
        return index

    def __getstate__(self) -> dict[str, Any]:
        if self.saved is None:
            return self.__dict__
        return {"saved": self.saved, "source": self.source, "image_dir": self.image_dir}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.saved is not None:
            again = DetectionIndex.open(self.saved[0])
            if again.saved != self.saved:
                raise UserError(f"the saved index {self.saved[0]} was replaced while it was in use: start again")
            self.__dict__.update({**again.__dict__, **state})


def read_header(folder: Path) -> dict[str, Any]:
    """What a saved index says of itself.

    Raises:
        UserError: it is not there, unreadable or of another version.
    """
    try:
        header: dict[str, Any] = json.loads((folder / HEADER).read_text())
        number = header["format"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"cannot open the saved index {folder}: {error}; delete it") from None
    if number != FORMAT:
        raise UserError(f"the saved index {folder} has the format {number}, not {FORMAT}: delete it")
    return header


def save_array(path: Path, array: np.ndarray) -> None:
    """Write, and have it on the disk."""
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
        os.fsync(file.fileno())


def rename_new(folder: Path, new: Path) -> None:
    """Rename a folder, unless there is a folder of the new name that is not empty.

    Raises:
        FileExistsError: there is.
    """
    try:
        os.rename(folder, new)
    except OSError:
        if new.is_dir():
            raise FileExistsError(new) from None
        raise
