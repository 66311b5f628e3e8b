"""Read COCO detection JSON into a `DetectionIndex`, saying exactly what is wrong where something is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.data.index import DetectionIndex, PackedStrings
from yolo_lite.data.masks import with_box
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

# Beyond this a coordinate cannot be a pixel; it also keeps the arithmetic in float32 honest.
MAX_COORDINATE = 1e6
MAX_AREA = MAX_COORDINATE**2
# Less than this of a box (pixels of the original image) is nothing to learn from.
MIN_SIDE = 1.0


def read_json(path: Path) -> Any:
    """The parsed file.

    Raises:
        UserError: it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no annotation file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is not a COCO annotation file: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def entries(data: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects under `key`."""
    if not isinstance(data, dict):
        raise UserError(f"{path} is not COCO: the top level is a {type(data).__name__}, not an object")
    if key not in data:
        found = ", ".join(map(repr, list(data)[:8])) or "nothing"
        raise UserError(f"{path} is not COCO: no key {key!r} (found {found})")
    value = data[key]
    if not isinstance(value, list):
        raise UserError(f"{path} is not COCO: {key!r} is a {type(value).__name__}, not a list")
    for i, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise UserError(f"{path} is not COCO: {key}[{i}] is a {type(entry).__name__}, not an object")
    return value


class Field:
    """Typed access to one entry, with errors that name file, list, index and key."""

    def __init__(self, entry: dict[str, Any], where: str) -> None:
        self.entry = entry
        self.where = where

    def get(self, key: str) -> Any:
        if key not in self.entry:
            raise UserError(f"{self.where} has no {key!r}")
        return self.entry[key]

    def integer(self, key: str) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not an integer")
        return value

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not valid Unicode") from None
        return value

    def size(self, key: str) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_COORDINATE:
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not a number of pixels")
        return int(value)

    def box(self, key: str) -> list[float]:
        value = self.get(key)
        if not isinstance(value, list) or len(value) != 4:
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not [left, top, width, height]")
        for x in value:
            if isinstance(x, bool) or not isinstance(x, int | float) or not abs(x) <= MAX_COORDINATE:
                raise UserError(f"{self.where}: {key} is {value!r:.80}: every number must be finite and in pixels")
        return value

    def flag(self, key: str) -> bool:
        value = self.entry.get(key, 0)
        if value not in (0, 1):  # True and False included
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not 0 or 1")
        return bool(value)

    def area(self, box: list[float]) -> float:
        value = self.entry.get("area", box[2] * box[3])
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_AREA:
            raise UserError(f"{self.where}: area is {value!r:.80}, not a number")
        return float(value)


def read_categories(data: Any, path: Path) -> tuple[list[str], list[int]]:
    """Class names and category ids, in the order of the ids."""
    listed = entries(data, "categories", path)
    categories = [Field(c, f"{path}: categories[{i}]") for i, c in enumerate(listed)]
    if not categories:
        raise UserError(f"{path} is not COCO: 'categories' is empty")
    roots = [c for c in categories if is_root(c.entry, listed)]
    if roots:
        used = [a.get("category_id") for a in entries(data, "annotations", path)]
        roots = [c for c in roots if c.get("id") not in used]
    if roots and len(roots) < len(categories):
        log.warning("%s: left out %r, which groups the other categories", path, roots[0].text("name"))
        categories = [c for c in categories if c not in roots]
    pairs = sorted((c.integer("id"), c.text("name")) for c in categories)
    ids = [i for i, _ in pairs]
    names = [name for _, name in pairs]
    for values, what in ((ids, "id"), (names, "name")):
        twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
        if twice is not None:
            raise UserError(f"{path}: two categories have the {what} {twice!r}")
    return names, ids


def is_root(category: dict[str, Any], categories: list[dict[str, Any]]) -> bool:
    """Roboflow lists the whole project as a category that has no parent and is the parent of the others."""
    return category.get("supercategory") == "none" and any(
        c is not category and c.get("supercategory") == category.get("name") for c in categories
    )


def read_coco(path: Path, image_dir: Path) -> DetectionIndex:
    """Parse a COCO file.

    Category ids become class indices in the order of the ids, whatever their gaps. Boxes outside their image or
    without extent stay in the index for scoring, are not trained on, and are counted in one warning.

    Raises:
        UserError: not COCO, with the key and the index that are wrong.
    """
    data = read_json(path)
    class_names, category_ids = read_categories(data, path)
    images = [Field(image, f"{path}: images[{i}]") for i, image in enumerate(entries(data, "images", path))]
    annotations = entries(data, "annotations", path)
    if not images:
        raise UserError(f"{path} lists no images")

    image_ids = [image.integer("id") for image in images]
    position: dict[int, int] = {}
    for i, image_id in enumerate(image_ids):
        if position.setdefault(image_id, i) != i:
            raise UserError(f"{path}: images[{i}] has the id {image_id} of images[{position[image_id]}]")
    names = [image.text("file_name") for image in images]
    sizes = np.array([[image.size("height"), image.size("width")] for image in images], dtype=np.int32)
    class_index = {category: i for i, category in enumerate(category_ids)}

    count = len(annotations)
    owner = np.empty(count, dtype=np.int64)
    labels = np.empty(count, dtype=np.int32)
    boxes = np.empty((count, 4), dtype=np.float32)
    areas = np.empty(count, dtype=np.float32)
    is_crowd = np.empty(count, dtype=bool)
    for i, entry in enumerate(annotations):
        where = f"{path}: annotations[{i}]"
        field = Field(with_box(entry, where), where)
        image_id, category = field.integer("image_id"), field.integer("category_id")
        if image_id not in position:
            raise UserError(f"{field.where}: image_id {image_id} is not in 'images'")
        if category not in class_index:
            raise UserError(f"{field.where}: category_id {category} is not in 'categories'")
        owner[i], labels[i] = position[image_id], class_index[category]
        boxes[i] = box = field.box("bbox")
        areas[i] = field.area(box)
        is_crowd[i] = field.flag("iscrowd")

    order = np.argsort(owner, kind="stable")
    owner, boxes = owner[order], boxes[order]
    is_crowd = is_crowd[order]
    inside = visible_boxes(boxes, sizes[owner])
    report_boxes(path, boxes, sizes[owner], inside)
    return DetectionIndex(
        source=path,
        image_dir=image_dir,
        class_names=class_names,
        category_ids=category_ids,
        file_names=PackedStrings(names),
        image_ids=np.array(image_ids, dtype=np.int64),
        sizes=sizes,
        offsets=np.searchsorted(owner, np.arange(len(images) + 1)).astype(np.int64),
        boxes_xywh=boxes,
        labels=labels[order],
        areas=areas[order],
        is_crowd=is_crowd,
        is_trainable=inside & ~is_crowd,
    )


def visible_boxes(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(M,) bool: at least `MIN_SIDE` pixels of the box lie inside its image. `sizes` are (M, 2) height, width."""
    low = np.maximum(boxes_xywh[:, :2], 0)
    high = np.minimum(boxes_xywh[:, :2] + boxes_xywh[:, 2:], sizes[:, ::-1])
    return ((high - low) >= MIN_SIDE).all(axis=1)


def report_boxes(path: Path, boxes_xywh: np.ndarray, sizes: np.ndarray, inside: np.ndarray) -> None:
    """One warning that counts what will be clipped and what will be dropped."""
    over = (boxes_xywh[:, :2] < 0) | (boxes_xywh[:, :2] + boxes_xywh[:, 2:] > sizes[:, ::-1] + 0.5)
    clipped = int((over.any(axis=1) & inside).sum())
    dropped = int((~inside).sum())
    if clipped or dropped:
        log.warning(
            "%s: %d boxes reach outside their image and are clipped, %d are empty or outside and are not trained on",
            path,
            clipped,
            dropped,
        )
