"""Read YOLO labels: one text file an image, with rows `class cx cy w h`.

Coordinates are shares of the image's width and height, so the sizes of the image files are needed to read them. A row
`class x y x y x y ...` is a polygon and gives the box around it. Where data.yaml has `kpt_shape`, rows are
`class cx cy w h` and key points, which are not read.
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolo_lite.data.build import Rows, build_index
from yolo_lite.data.data_yaml import (
    count_keypoint_columns,
    exists,
    read_class_names,
    read_text,
    read_yaml,
    split_images,
)
from yolo_lite.data.images import ImageProblem, inspect_images
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import Split
from yolo_lite.data.masks import polygon_area
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

# Farther from the image than its own size is no overshoot: such numbers are pixels.
FARTHEST = 2.0


class LabelRow(NamedTuple):
    """One object; coordinates in shares of the image."""

    label: int
    cx: float
    cy: float
    width: float
    height: float
    area: float


def read_yolo(path: Path, split: Split) -> tuple[DetectionIndex, list[tuple[int, int] | ImageProblem]]:
    """Read one split.

    Images are numbered from 1 in the order of their paths; an image without a label file has no objects. Equal rows of
    a file count once. Boxes outside their image or without extent are treated as those of COCO files.

    Args:
        path: data.yaml.
        split: which one.

    Returns:
        The index, and what `inspect_image` said of each image. The labels of unusable images are not read.

    Raises:
        MissingSplitError: data.yaml does not name it.
        UserError: data.yaml or a label file is wrong; the message names the line.
    """
    settings = read_yaml(path)
    class_names = read_class_names(settings, path)
    keypoint_columns = count_keypoint_columns(settings, path)
    images = split_images(settings, path, split)
    inspected = inspect_images(images)
    labels = label_files(images)
    rows = Rows.empty()
    missing = duplicates = 0
    for i, (found, label_file) in enumerate(zip(inspected, labels, strict=True)):
        if isinstance(found, ImageProblem):
            continue
        text = read_text(label_file)
        if text is None:
            missing += 1
            continue
        parsed = parse_labels(text, len(class_names), label_file, keypoint_columns)
        unique = list(dict.fromkeys(parsed))
        duplicates += len(parsed) - len(unique)
        height, width = found
        for row in unique:
            left, top = (row.cx - row.width / 2) * width, (row.cy - row.height / 2) * height
            box = (left, top, row.width * width, row.height * height)
            rows.add(i, row.label, box, row.area * width * height)
    usable = sum(not isinstance(found, ImageProblem) for found in inspected)
    if usable and missing == usable:
        raise UserError(
            f"{path}: none of the {len(images)} {split} images has a label file (looked for {labels[0]} first); labels "
            "lie in the folder labels that stands where the images' path has images, or beside the images"
        )
    if missing:
        log.info("%s: %d of %d %s images have no label file: no objects", path, missing, len(images), split)
    if duplicates:
        log.warning("%s: %d label rows of %s repeat another of their file and are dropped", path, duplicates, split)
    folder = os.path.commonpath([image.parent for image in images])
    sizes = np.array([(1, 1) if isinstance(found, ImageProblem) else found for found in inspected], dtype=np.int32)
    names = [image.relative_to(folder).as_posix() for image in images]
    return build_index(path, Path(folder), class_names, names, sizes, rows), inspected


def label_files(images: list[Path]) -> list[Path]:
    """Where the labels of each image are: beside the images of its folder, if that is where there are any, else under
    labels. Every folder is looked at by itself, as a split may be put together from several exports."""
    places: dict[Path, list[Path]] = {}
    for image in images:
        places.setdefault(image.parent, []).append(image)
    found = {}
    for members in places.values():
        usual = {image: label_file(image) for image in members}
        beside = {image: image.with_suffix(".txt") for image in members}
        is_beside = not any(map(has_labels, usual.values())) and any(map(has_labels, beside.values()))
        found.update(beside if is_beside else usual)
    return [as_it_is_written(found[image]) for image in images]


def as_it_is_written(path: Path) -> Path:
    """The path itself, or with the suffix in capitals, if only that is there."""
    capital = path.with_suffix(".TXT")
    return capital if not exists(path) and exists(capital) else path


def has_labels(path: Path) -> bool:
    """The file is there, however its suffix is written."""
    return exists(as_it_is_written(path))


def label_file(image: Path) -> Path:
    """`.../images/a/b.jpg` -> `.../labels/a/b.txt`: the last folder named images counts."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def parse_labels(text: str, num_classes: int, path: Path, keypoint_columns: int = 0) -> list[LabelRow]:
    """The rows of a label file; columns of key points behind a box are passed over.

    Raises:
        UserError: a row is wrong; the message names file and line.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        tokens = line.split()
        if keypoint_columns and len(tokens) == 5 + keypoint_columns:  # else an odd number would look like a polygon
            tokens = tokens[:5]
        if tokens:
            rows.append(parse_row(tokens, num_classes, f"{path}:{number}"))
    return rows


def parse_row(tokens: list[str], num_classes: int, where: str) -> LabelRow:
    """One row.

    Raises:
        UserError: it is wrong.
    """
    count = len(tokens)
    if count != 5 and (count < 7 or count % 2 == 0):
        raise UserError(
            f"{where}: {count} columns, not `class cx cy w h` nor `class x y x y x y ...`"
            + ("; the sixth looks like a score: these are predictions, no labels" if count == 6 else "")
        )
    label, *numbers = [parse_number(token, where) for token in tokens]
    if label != int(label) or not 0 <= label < num_classes:
        raise UserError(f"{where}: class {tokens[0]:.80}, and data.yaml names 0 to {num_classes - 1}")
    far = next((x for x in numbers if abs(x) > FARTHEST), None)
    if far is not None:
        raise UserError(f"{where}: {far:g} is no share of the image: divide x by its width and y by its height")
    if count == 5:
        cx, cy, width, height = numbers
        return LabelRow(int(label), cx, cy, width, height, width * height)
    xy = np.array(numbers).reshape(-1, 2)
    (left, top), (right, bottom) = xy.min(axis=0).tolist(), xy.max(axis=0).tolist()
    box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return LabelRow(int(label), *box, polygon_area(xy))


def parse_number(token: str, where: str) -> float:
    """A finite number.

    Raises:
        UserError: it is none.
    """
    try:
        value = float(token) if "_" not in token else math.nan  # Python takes 1_0 for 10
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {token!r:.80} is not a number")
    return value
