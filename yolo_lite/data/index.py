"""The index of a data set: what is where, in a few contiguous arrays instead of millions of Python objects.

Workers inherit it without copying: arrays have no reference counts to write to, lists of dicts do.
Notation: N images, M annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class PackedStrings:
    """An immutable sequence of strings in one byte array."""

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [s.encode() for s in strings]
        self._offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(s) for s in encoded], out=self._offsets[1:])
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> str:
        return self._bytes[self._offsets[i] : self._offsets[i + 1]].tobytes().decode()


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
        counts = np.diff(self.offsets)[keep]
        rows = np.concatenate(
            [np.arange(self.offsets[i], self.offsets[i + 1]) for i in keep] or [np.zeros(0, np.int64)]
        )
        rows = rows.astype(np.int64)
        return DetectionIndex(
            source=self.source,
            image_dir=self.image_dir,
            class_names=self.class_names,
            category_ids=self.category_ids,
            file_names=PackedStrings([self.file_names[int(i)] for i in keep]),
            image_ids=self.image_ids[keep],
            sizes=self.sizes[keep],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes_xywh=self.boxes_xywh[rows],
            labels=self.labels[rows],
            areas=self.areas[rows],
            is_crowd=self.is_crowd[rows],
            is_trainable=self.is_trainable[rows],
        )
