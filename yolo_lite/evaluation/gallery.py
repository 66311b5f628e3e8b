"""Which images a report shows, and what is drawn on them: the worst, the best, and some of every kind of error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from yolo_lite.data.images import ImageFiles
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.thumbnails import encode_jpeg, read_small
from yolo_lite.evaluation.analysis import ImageRecord
from yolo_lite.evaluation.detections import DetectionTable

PHOTO_SIDE = 480
PHOTO_QUALITY = 75
# Boxes are drawn on a canvas with this longer side, whatever the size of the image: lines and letters fit all alike.
CANVAS_SIDE = 640.0
SMALLEST_MARK = 7.0  # canvas units: objects of a pixel would not be seen
MAX_MARKS = 150
WORST_SHARE, BEST_SHARE = 0.4, 0.25  # of the images of a gallery; the rest is for filters
IMAGES_PER_FILTER = 2


@dataclass(frozen=True)
class Mark:
    """A box on the canvas.

    Attributes:
        box_xywh: in canvas units, inside it.
        label: class index.
        score: None for ground truth.
        error: a key of `ERROR_STYLES`.
    """

    box_xywh: tuple[float, float, float, float]
    label: int
    score: float | None
    error: str


@dataclass(frozen=True)
class Picture:
    """An image of the gallery.

    Attributes:
        position: in the index.
        name: of the file.
        found: F1 of this image.
        width, height: of the canvas.
        truth: annotated objects, those that were missed last, on top.
        predictions: detections, the wrong ones last.
        num_objects, num_detections, num_errors: of the image, also of what is not drawn.
    """

    position: int
    name: str
    found: float
    width: float
    height: float
    truth: list[Mark]
    predictions: list[Mark]
    num_objects: int
    num_detections: int
    num_errors: int


def choose_images(
    records: list[ImageRecord], table: DetectionTable, index: DetectionIndex, limit: int
) -> list[ImageRecord]:
    """At most `limit` of the images, the worst first.

    The worst and the best come first; the others are taken so that each pair of a class and an error type, the frequent
    ones first, has images to show.
    """
    told = [record for record in records if not np.isnan(record.found)]
    order = sorted(told, key=lambda record: (record.found, -count_errors(record), record.position))
    chosen: dict[int, ImageRecord] = {}

    def take(some: list[ImageRecord], count: int) -> None:
        chosen.update({record.position: record for record in some[:count]})

    take(order, max(1, int(limit * WORST_SHARE)))
    take(sorted(told, key=lambda r: (-r.found, -len(r.objects), r.position)), max(1, int(limit * BEST_SHARE)))
    by_filter: dict[tuple[int, str], list[ImageRecord]] = defaultdict(list)
    for record in order:
        for pair in error_pairs(record, table, index):
            by_filter[pair].append(record)
    for _, records_of_pair in sorted(by_filter.items(), key=lambda item: (-len(item[1]), item[0])):
        already = sum(record.position in chosen for record in records_of_pair)
        missing = min(IMAGES_PER_FILTER - already, limit - len(chosen))
        take([r for r in records_of_pair if r.position not in chosen], max(0, missing))
    take([r for r in order if r.position not in chosen], max(0, limit - len(chosen)))
    return [record for record in order if record.position in chosen][:limit]


def count_errors(record: ImageRecord) -> int:
    """Wrong detections and missed objects."""
    return sum(error not in ("", "ignored") for error in [*record.detection_errors, *record.object_errors])


def error_pairs(record: ImageRecord, table: DetectionTable, index: DetectionIndex) -> set[tuple[int, str]]:
    """Class index and error type of everything that is wrong on the image."""
    labels = [*table.labels[record.detections].tolist(), *index.labels[record.objects].tolist()]
    errors = [*record.detection_errors, *record.object_errors]
    return {(label, error) for label, error in zip(labels, errors, strict=True) if error not in ("", "ignored")}


def make_picture(record: ImageRecord, table: DetectionTable, index: DetectionIndex) -> Picture:
    """What is drawn of an image."""
    height, width = (max(1, int(side)) for side in index.sizes[record.position])
    scale = CANVAS_SIDE / max(height, width)
    canvas = (width * scale, height * scale)
    objects = index.boxes_xywh[record.objects].astype(np.float64)
    boxes = table.boxes_xyxy[record.detections].astype(np.float64)
    boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    truth = marks(objects * scale, index.labels[record.objects], None, record.object_errors, canvas)
    found = marks(
        boxes_xywh * scale,
        table.labels[record.detections],
        table.scores[record.detections],
        record.detection_errors,
        canvas,
    )
    return Picture(
        position=record.position,
        name=index.file_names[record.position],
        found=record.found,
        width=canvas[0],
        height=canvas[1],
        truth=truth,
        predictions=found,
        num_objects=len(record.objects),
        num_detections=len(record.detections),
        num_errors=count_errors(record),
    )


def marks(
    boxes_xywh: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    errors: list[str],
    canvas: tuple[float, float],
) -> list[Mark]:
    """Boxes (K, 4) in canvas units as marks: at most `MAX_MARKS`, the wrong ones kept and on top."""
    made = [
        Mark(
            box_xywh=fit(boxes_xywh[k], canvas),
            label=int(labels[k]),
            score=None if scores is None else float(scores[k]),
            error=errors[k],
        )
        for k in range(len(boxes_xywh))
    ]
    # Large ones below small ones, which they would cover.
    made.sort(key=lambda mark: (mark.error not in ("", "ignored"), -mark.box_xywh[2] * mark.box_xywh[3]))
    return made[-MAX_MARKS:]


def fit(box_xywh: np.ndarray, canvas: tuple[float, float]) -> tuple[float, float, float, float]:
    """The part of a box inside the canvas, grown around its centre where it would be too small to be seen."""
    low, high = np.zeros(2), np.array(canvas)
    start = np.clip(np.nan_to_num(box_xywh[:2]), low, high)
    end = np.clip(np.nan_to_num(box_xywh[:2] + box_xywh[2:]), start, high)
    centre = (start + end) / 2
    half = np.maximum((end - start) / 2, np.minimum(SMALLEST_MARK / 2, high / 2))
    centre = np.clip(centre, half, high - half)
    left, top = (centre - half).tolist()
    width, height = (2 * half).tolist()
    return left, top, width, height


def read_photo(files: ImageFiles, position: int) -> bytes:
    """The image as a small JPEG.

    Raises:
        UserError: it cannot be decoded.
    """
    image, _ = read_small(files, position, PHOTO_SIDE)
    return encode_jpeg(image, PHOTO_QUALITY)


def every_mark(picture: Picture) -> Iterator[Mark]:
    """Of both halves."""
    yield from picture.truth
    yield from picture.predictions
