"""The three lists of a COCO file, each entry checked as it comes from the file and put into growing arrays.

Notation: M annotations.
"""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.data.json_stream import JsonStream
from yolo_lite.data.masks import MAX_COORDINATE, with_box
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.progress import LongJob

log = logging.getLogger(__name__)

MAX_AREA = MAX_COORDINATE**2
DIGITS = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)  # not 007, which may be another one than 7
NUMBERS = (int, float)  # the types themselves: True and False are instances of int
REPORTED_ENTRIES = 4096  # entries between two looks at the clock


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
        """An id. Exports write some as texts, and spreadsheets as 1.0; two that become the same are refused later."""
        value = self.get(key)
        is_written_out = type(value) is str and DIGITS.fullmatch(value)
        if is_written_out or (type(value) is float and value.is_integer() and abs(value) < 2**53):
            value = int(value)
        if type(value) is not int or abs(value) >= 2**63:
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
        if type(value) not in NUMBERS or not 1 <= value <= MAX_COORDINATE:
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not a number of pixels")
        return int(value)

    def box(self, key: str) -> list[float]:
        value = self.get(key)
        if not isinstance(value, list) or len(value) != 4:
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not [left, top, width, height]")
        for x in value:
            if type(x) not in NUMBERS or not abs(x) <= MAX_COORDINATE:
                raise UserError(f"{self.where}: {key} is {value!r:.80}: every number must be finite and in pixels")
        return value

    def flag(self, key: str) -> bool:
        value = self.entry.get(key)
        if value is None:
            return False
        if value not in (0, 1):  # True and False included
            raise UserError(f"{self.where}: {key} is {value!r:.80}, not 0 or 1")
        return bool(value)

    def area(self, box: list[float]) -> float:
        value = self.entry.get("area")
        if value is None:
            return float(box[2] * box[3])
        if type(value) not in NUMBERS or not abs(value) <= MAX_AREA:
            raise UserError(f"{self.where}: area is {value!r:.80}, not a number")
        return float(value)


class Categories:
    """The entries of `categories`."""

    def __init__(self) -> None:
        self.fields: list[Field] = []

    def add(self, field: Field) -> None:
        """One more."""
        self.fields.append(field)

    def names_and_ids(self, path: Path, used_ids: np.ndarray) -> tuple[list[str], list[int]]:
        """Class names and category ids, in the order of the ids.

        Args:
            path: the file.
            used_ids: (M,) category ids of the annotations.
        """
        fields = self.fields
        if not fields:
            raise UserError(f"{path} is not COCO: 'categories' is empty")
        listed = [field.entry for field in fields]
        roots = [field for field in fields if is_root(field.entry, listed)]
        roots = [field for field in roots if not (used_ids == field.integer("id")).any()]
        if roots and len(roots) < len(fields):
            log.warning("%s: left out %r, which groups the other categories", path, roots[0].text("name"))
            fields = [field for field in fields if field not in roots]
        pairs = sorted((field.integer("id"), field.text("name")) for field in fields)
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


class Images:
    """The entries of `images`, in growing arrays: 2 million of them would take gigabytes as objects."""

    def __init__(self) -> None:
        self.ids = array("q")
        self.sizes = array("i")  # height, width, height, width, ...
        self.names = bytearray()
        self.name_ends = array("q", [0])

    def add(self, field: Field) -> None:
        """One more."""
        self.ids.append(field.integer("id"))
        self.names += field.text("file_name").encode()
        self.name_ends.append(len(self.names))
        self.sizes.extend((field.size("height"), field.size("width")))


class Annotations:
    """The entries of `annotations`, in growing arrays; `take` them one by one, together they are gigabytes."""

    def __init__(self) -> None:
        self.image_ids = array("q")
        self.category_ids = array("q")
        self.boxes = array("f")  # left, top, width, height, left, ...
        self.areas = array("f")
        self.is_crowd = array("b")
        self.mask_rows = array("q")  # whose box is that of an RLE
        self.mask_sizes = array("i")  # its height, width, height, ...

    def add(self, field: Field) -> None:
        """One more; a mask without a box has that of its extent."""
        entry = with_box(field.entry, field.where)
        if entry is not field.entry and isinstance(entry["segmentation"], dict):
            self.mask_rows.append(len(self.image_ids))
            self.mask_sizes.extend(entry["segmentation"]["size"])
        field = Field(entry, field.where)
        self.image_ids.append(field.integer("image_id"))
        self.category_ids.append(field.integer("category_id"))
        box = field.box("bbox")
        self.boxes.extend(box)
        self.areas.append(field.area(box))
        self.is_crowd.append(field.flag("iscrowd"))

    def take(self, name: str) -> np.ndarray:
        """A column, which is not kept here any longer."""
        return np.asarray(self.__dict__.pop(name))


def read_lists(path: Path, chunk_bytes: int) -> tuple[Categories, Images, Annotations]:
    """The three lists of a COCO file, in whatever order they are in it."""
    kinds: dict[str, Callable[[], Any]] = {"categories": Categories, "images": Images, "annotations": Annotations}
    found: dict[str, Any] = {}
    with JsonStream(path, chunk_bytes) as stream, LongJob(f"reading {path.name}", stream.size) as job:
        for key, entries in stream.members():
            found[key] = None
            if key not in kinds:
                continue
            if not isinstance(entries, Iterator):
                raise UserError(f"{path} is not COCO: {key!r} is a {type(entries).__name__}, not a list")
            found[key] = rows = kinds[key]()
            listed = f"{path}: {key}"
            for i, entry in enumerate(entries):
                if not isinstance(entry, dict):
                    kind = type(entry).__name__
                    raise UserError(f"{path} is not COCO: {key}[{i}] is a {kind}, not an object")
                rows.add(Field(entry, f"{listed}[{i}]"))
                if i % REPORTED_ENTRIES == 0:
                    job.update(stream.bytes_read, f"{i} {key}")
    for key in kinds:
        if key not in found:
            names = ", ".join(map(repr, list(found)[:8])) or "nothing"
            raise UserError(f"{path} is not COCO: no key {key!r} (found {names})")
    return found["categories"], found["images"], found["annotations"]
