"""Detections of many images as one table. Notation: D detections, C classes, N images, M annotations of the index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from yolo_lite.data.index import DetectionIndex

# COCO scores so many detections of an image and a class, the best ones.
COCO_LIMIT = 100


@dataclass
class DetectionTable:
    """Detections of many images: one row each.

    Attributes:
        image_ids: (D,) int64.
        boxes_xyxy: (D, 4) float32 in pixels of the original image.
        scores: (D,) float32.
        labels: (D,) int64 class indices.
        seen: int64 ids of all images that were looked at, those without detections included.
    """

    image_ids: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def without(self, image_ids: np.ndarray) -> DetectionTable:
        """The rows and images that are not among `image_ids`."""
        rows, images = ~np.isin(self.image_ids, image_ids), ~np.isin(self.seen, image_ids)
        return DetectionTable(
            self.image_ids[rows], self.boxes_xyxy[rows], self.scores[rows], self.labels[rows], self.seen[images]
        )

    @staticmethod
    def concatenate(tables: list[DetectionTable]) -> DetectionTable:
        """Rows of all, in order."""
        names = DetectionTable.__dataclass_fields__
        return DetectionTable(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in names})

    def boxes_xywh(self) -> np.ndarray:
        """(D, 4) float64 left, top, width, height: in float64 the widths are exact."""
        corners = self.boxes_xyxy.astype(np.float64)
        corners[:, 2:] -= corners[:, :2]
        return corners


@dataclass(frozen=True)
class Scope:
    """Detections and objects that count for the scores: of images that were looked at, the best of each class.

    Detections are sorted by image id, class, score (best first) and row of the table; objects stand as in the index.

    Attributes:
        num_classes: C.
        num_images: of the index, N.
        is_seen: (N,) images that were looked at.
        rows: (D,) of the table.
        images: (D,) positions in the index.
        labels: (D,).
        scores: (D,) float32.
        ranks: (D,) place among the detections of the same image and class, from 0.
        boxes_xywh: (D, 4) float64.
        object_rows: (M,) annotations of the index.
        object_images: (M,) positions in the index.
        object_labels: (M,).
        object_boxes_xywh: (M, 4) float64.
        object_areas: (M,) square pixels, of the masks where the file has them.
        is_crowd: (M,).
    """

    num_classes: int
    num_images: int
    is_seen: np.ndarray
    rows: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    boxes_xywh: np.ndarray
    object_rows: np.ndarray
    object_images: np.ndarray
    object_labels: np.ndarray
    object_boxes_xywh: np.ndarray
    object_areas: np.ndarray
    is_crowd: np.ndarray

    @staticmethod
    def of(table: DetectionTable, index: DetectionIndex, limit: int = COCO_LIMIT) -> Scope:
        """What is scored of a table.

        Args:
            table: detections; those of images that are not in the index, or were not looked at, are left out.
            index: ground truth.
            limit: detections of an image and a class.
        """
        num_images, num_classes = len(index), len(index.class_names)
        is_seen = np.isin(index.image_ids, table.seen)
        # The order of rows with equal scores must not depend on the number of processes: images by id, rows as found.
        rows = np.lexsort((-table.scores, table.labels, table.image_ids))
        images = positions_of(table.image_ids[rows], index.image_ids)
        is_known = images >= 0
        is_known[is_known] = is_seen[images[is_known]]
        rows, images = rows[is_known], images[is_known]
        ranks = ranks_in_runs(images * num_classes + table.labels[rows])
        is_scored = ranks < limit
        rows, images, ranks = rows[is_scored], images[is_scored], ranks[is_scored]
        owners = np.repeat(np.arange(num_images), np.diff(index.offsets))
        objects = np.flatnonzero(is_seen[owners])
        return Scope(
            num_classes=num_classes,
            num_images=num_images,
            is_seen=is_seen,
            rows=rows,
            images=images,
            labels=table.labels[rows],
            scores=table.scores[rows],
            ranks=ranks,
            boxes_xywh=table.boxes_xywh()[rows],
            object_rows=objects,
            object_images=owners[objects],
            object_labels=index.labels[objects].astype(np.int64),
            object_boxes_xywh=index.boxes_xywh[objects].astype(np.float64),
            object_areas=index.areas[objects].astype(np.float64),
            is_crowd=index.is_crowd[objects],
        )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def ranking(self) -> Ranking:
        """The detections by class and score."""
        return Ranking.of(self.labels, self.scores, self.num_classes)


@dataclass(frozen=True)
class Ranking:
    """Detections by class and score, best first; of equal ones as in the scope.

    Attributes:
        order: (D,) places in the scope.
        starts: (C + 1,) where the classes start.
    """

    order: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(labels: np.ndarray, scores: np.ndarray, num_classes: int) -> Ranking:
        """By labels (D,) and scores (D,), C classes."""
        order = np.lexsort((-scores, labels))
        return Ranking(order, np.searchsorted(labels[order], np.arange(num_classes + 1)))


def positions_of(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of the values stands among others that are all different; -1: nowhere."""
    if not len(among):
        return np.full(len(values), -1)
    order = np.argsort(among, kind="stable")
    found = order[np.minimum(np.searchsorted(among, values, sorter=order), len(among) - 1)]
    return np.where(among[found] == values, found, -1)


def ranks_in_runs(keys: np.ndarray) -> np.ndarray:
    """For each item its place, from 0, in the run of equal keys that it stands in."""
    places = np.arange(len(keys))
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = keys[1:] != keys[:-1]
    return places - np.maximum.accumulate(np.where(is_first, places, 0))
