"""From the rows of a reader to a `DetectionIndex`. Notation: N images, M annotations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolo_lite.data.coco import report_boxes, visible_boxes
from yolo_lite.data.index import DetectionIndex, PackedStrings
from yolo_lite.utils.errors import UserError


@dataclass
class Rows:
    """Annotations as a reader meets them.

    Attributes:
        owners: position of each annotation's image.
        labels: class indices.
        boxes_xywh: left, top, width, height in pixels.
        areas: square pixels.
        is_crowd: ignored in scoring, not trained on.
    """

    owners: list[int]
    labels: list[int]
    boxes_xywh: list[tuple[float, float, float, float]]
    areas: list[float]
    is_crowd: list[bool]

    @classmethod
    def empty(cls) -> Rows:
        """No rows."""
        return cls([], [], [], [], [])

    def add(
        self, owner: int, label: int, box_xywh: tuple[float, float, float, float], area: float, is_crowd: bool = False
    ) -> None:
        """One more."""
        self.owners.append(owner)
        self.labels.append(label)
        self.boxes_xywh.append(box_xywh)
        self.areas.append(area)
        self.is_crowd.append(is_crowd)


def build_index(
    source: Path, image_dir: Path, class_names: list[str], file_names: list[str], sizes: np.ndarray, rows: Rows
) -> DetectionIndex:
    """The index of images that have no numbers of their own: theirs are 1 to N, the categories' are the class indices.

    Args:
        source: what names the annotations in messages.
        image_dir: the folder that `file_names` are relative to.
        class_names: by class index.
        file_names: N names.
        sizes: (N, 2) int32 height, width.
        rows: M annotations, those of the first image first.

    Raises:
        UserError: a name is not UTF-8.
    """
    try:
        packed_names = PackedStrings(file_names)
    except UnicodeEncodeError as error:
        raise UserError(f"{source}: the file name {error.object!r:.200} is not UTF-8: rename the file") from None
    owners = np.array(rows.owners, dtype=np.int64)
    boxes = np.array(rows.boxes_xywh, dtype=np.float32).reshape(-1, 4)
    is_crowd = np.array(rows.is_crowd, dtype=bool)
    inside = visible_boxes(boxes, sizes[owners])
    report_boxes(source, boxes, sizes[owners], inside)
    return DetectionIndex(
        source=source,
        image_dir=image_dir,
        class_names=class_names,
        category_ids=list(range(len(class_names))),
        file_names=packed_names,
        image_ids=np.arange(1, len(file_names) + 1, dtype=np.int64),
        sizes=sizes,
        offsets=np.searchsorted(owners, np.arange(len(file_names) + 1)).astype(np.int64),
        boxes_xywh=boxes,
        labels=np.array(rows.labels, dtype=np.int32),
        areas=np.array(rows.areas, dtype=np.float32),
        is_crowd=is_crowd,
        is_trainable=inside & ~is_crowd,
    )
