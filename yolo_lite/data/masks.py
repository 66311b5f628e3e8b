"""Boxes and areas from COCO segmentations, for annotations that have no box.

Polygons are `[[x0, y0, x1, y1, ...], ...]` in pixels. RLE is `{"size": [height, width], "counts": ...}`: the lengths of
runs down the columns, as a list or as COCO's compressed text.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from yolo_lite.utils.errors import UserError

# Beyond this a coordinate cannot be a pixel; it also keeps the arithmetic in float32 honest.
MAX_COORDINATE = 1e6
# Numbers of five bits a character, `P` to `o` where more of the number follows. What ends inside a number makes
# pycocotools read past the end of the text, and a height of 0 makes it divide by zero: both end the process.
COMPRESSED_COUNTS = re.compile(r"(?:[P-o]{0,6}[0-O])+", re.ASCII)


def with_box(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """The annotation itself, or, where it has a segmentation and no box, a copy with `bbox` and, if missing, `area`.

    Args:
        entry: an entry of COCO's `annotations`.
        where: names it in errors.

    Raises:
        UserError: the segmentation is neither polygons nor RLE.
    """
    if entry.get("bbox") not in (None, []) or not entry.get("segmentation"):
        return entry
    box, area = measure_segmentation(entry["segmentation"], where)
    return {**entry, "bbox": box, "area": area if entry.get("area") is None else entry["area"]}


def measure_segmentation(segmentation: Any, where: str) -> tuple[list[float], float]:
    """Left, top, width, height of the extent and the area, in pixels.

    Raises:
        UserError: neither polygons nor RLE.
    """
    if isinstance(segmentation, list):
        return measure_polygons(segmentation, where)
    if isinstance(segmentation, dict):
        return measure_rle(segmentation, where)
    raise UserError(f"{where}: segmentation is a {type(segmentation).__name__}, neither polygons nor RLE; give a bbox")


def measure_polygons(polygons: list[Any], where: str) -> tuple[list[float], float]:
    """Extent and area of the polygons of one object; what two of them cover counts twice."""
    points, area = [], 0.0
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(is_pixel, polygon)):
            raise UserError(f"{where}: a polygon of segmentation is not x, y, x, y, x, y, ... in pixels; give a bbox")
        xy = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        area += polygon_area(xy)
        points.append(xy)
    xy = np.concatenate(points)
    low, high = xy.min(axis=0), xy.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()], area


def measure_rle(rle: dict[str, Any], where: str) -> tuple[list[float], float]:
    """Extent and area of a mask."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(map(is_side, size)):
        raise UserError(f"{where}: size of the segmentation is not [height, width] in pixels; give a bbox")
    height, width = size
    if isinstance(counts, str) and COMPRESSED_COUNTS.fullmatch(counts):
        packed = {"size": size, "counts": counts.encode()}
    elif isinstance(counts, list) and all(map(is_count, counts)) and sum(counts) == height * width:
        packed = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
    else:
        raise UserError(f"{where}: counts of the segmentation are not RLE of {width}x{height} pixels; give a bbox")
    left, top, box_width, box_height = coco_mask.toBbox(packed).tolist()
    area = float(coco_mask.area(packed))
    if min(left, top) < 0 or left + box_width > width or top + box_height > height or area > box_width * box_height:
        raise UserError(f"{where}: the segmentation's mask does not fit into its {width}x{height} pixels; give a bbox")
    return [left, top, box_width, box_height], area


def polygon_area(xy: np.ndarray) -> float:
    """Area inside a closed polygon (K, 2), by the shoelace formula."""
    x, y = (xy - xy[0]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def is_pixel(value: Any) -> bool:
    """A finite coordinate."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_COORDINATE


def is_side(value: Any) -> bool:
    """The side of a mask."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**15


def is_count(value: Any) -> bool:
    """The length of a run."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
