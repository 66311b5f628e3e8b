"""Read Pascal VOC annotations: one XML file an image, with boxes in pixels that are counted from 1.

VOC's xmin, ymin, xmax, ymax name the first and the last pixel of a box, the image's first pixel being 1: left is
xmin - 1, width is xmax - xmin + 1. Tools that count from 0 write boxes that lie a pixel off by this rule, which is said
where a box shows it.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from yolo_lite.data.build import Rows, build_index
from yolo_lite.data.data_yaml import exists, read_text
from yolo_lite.data.images import ImageProblem, inspect_image
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import ALIASES, list_images
from yolo_lite.data.masks import MAX_COORDINATE
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

CLASS_FILES = ("classes.txt", "labels.txt")
SPLIT_NAMES = ("trainval", *(name for names in ALIASES.values() for name in names))


@dataclass(frozen=True)
class VocObject:
    """One object: its class, left, top, width, height in pixels counted from 0, and whether VOC calls it difficult."""

    name: str
    box_xywh: tuple[float, float, float, float]
    is_difficult: bool


@dataclass(frozen=True)
class VocAnnotation:
    """One XML file.

    Attributes:
        file_name: of the image, as the file says; None where it does not.
        size: height, width; None where it says none.
        objects: what is on the image.
    """

    file_name: str | None
    size: tuple[int, int] | None
    objects: list[VocObject]


class PlainTreeBuilder(ElementTree.TreeBuilder):
    """Refuses a document type, and with it entities: a file of a few lines could expand to gigabytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise UserError("a document type (DOCTYPE) is not read: remove it")


def read_voc(source: Path, image_dir: Path) -> DetectionIndex:
    """Read one split.

    Images are numbered from 1 in the order of their names. The classes are those of classes.txt or labels.txt beside
    the data, else the sorted names of all splits together.

    Args:
        source: ImageSets/Main/SPLIT.txt, or a folder that holds images and XML files together.
        image_dir: folder of the images.

    Raises:
        UserError: a file is wrong or missing; the message names it.
    """
    if not image_dir.is_dir():
        raise UserError(f"no image folder {image_dir} for {source}")
    annotation_files = list_annotations(source)
    names = sorted(annotation_files)
    if not names:
        raise UserError(f"{source} lists no images")
    annotations = [read_annotation(annotation_files[name]) for name in names]
    class_names = read_class_names(source, annotations)
    file_names = find_images(image_dir, names, annotations, source)
    sizes = [a.size or measured_size(image_dir / f) for a, f in zip(annotations, file_names, strict=True)]
    class_index = {name: i for i, name in enumerate(class_names)}
    rows = Rows.empty()
    for i, (name, annotation) in enumerate(zip(names, annotations, strict=True)):
        for item in annotation.objects:
            if item.name not in class_index:
                raise UserError(f"{annotation_files[name]}: class {item.name!r:.80} is not in the list of classes")
            # VOC's own scoring neither rewards nor punishes finding a difficult object, and its authors leave them out
            # of training, for they can be recognised by their surroundings at best: what COCO calls a crowd.
            area = item.box_xywh[2] * item.box_xywh[3]
            rows.add(i, class_index[item.name], item.box_xywh, area, item.is_difficult)
    from_zero = sum(-1 in box[:2] for box in rows.boxes_xywh)
    if from_zero:
        log.warning("%s: %d boxes begin at pixel 0; VOC counts from 1, so all may lie a pixel off", source, from_zero)
    return build_index(source, image_dir, class_names, file_names, np.array(sizes, dtype=np.int32), rows)


def measured_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image whose XML does not say; of an unusable one, which is left out later, anything."""
    found = inspect_image(path)
    return (1, 1) if isinstance(found, ImageProblem) else found


def list_annotations(source: Path) -> dict[str, Path]:
    """The XML file of each image of a split, by the image's name without suffix.

    Raises:
        UserError: the list cannot be read or names an image without XML file.
    """
    if source.is_dir():
        return {path.stem: path for path in source.glob("*.xml")}
    folder = source.parents[2] / "Annotations"
    found: dict[str, Path] = {}
    repeated = 0
    for number, line in enumerate((read_text(source) or "").split("\n"), start=1):
        name = line.strip()
        if name and not exists(folder / f"{name}.xml"):
            first, *rest = name.rsplit(maxsplit=1)
            if rest in (["1"], ["0"], ["-1"]):  # lists of one class have that in a second column
                name = first
        if not name:
            continue
        path = folder / f"{name}.xml"
        if not exists(path):
            raise UserError(f"{source}:{number}: no {folder.name}/{name:.80}.xml; without objects it has no <object>")
        repeated += name in found
        found[name] = path
    if repeated:
        log.warning("%s: %d images are listed twice and used once", source, repeated)
    return found


def read_class_names(source: Path, annotations: list[VocAnnotation]) -> list[str]:
    """Class names by index: the lines of a list beside the data, else what occurs in any split, sorted.

    Raises:
        UserError: the list names a class twice, or there is no object anywhere.
    """
    root = source.parent if source.is_dir() else source.parents[2]
    for name in CLASS_FILES:
        text = read_text(root / name)
        if text is not None:
            names = [line.strip() for line in text.split("\n") if line.strip()]
            twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
            if twice is not None or not names:
                raise UserError(f"{root / name} " + (f"has {twice!r:.80} twice" if names else "is empty"))
            return names
    seen = {item.name for annotation in annotations for item in annotation.objects}
    for other in (source.with_name(name + source.suffix) for name in SPLIT_NAMES):
        if other != source and other.exists():
            seen |= names_in(other)
    if not seen:
        raise UserError(f"{source}: no object in any split: nothing to learn")
    return sorted(seen)


def names_in(source: Path) -> set[str]:
    """Class names of another split, whose faults are told when that split is read."""
    try:
        files = list_annotations(source).values()
    except UserError:
        return set()
    names = set()
    for path in files:
        try:
            names |= {item.name for item in read_annotation(path).objects}
        except UserError:
            continue
    return names


def find_images(image_dir: Path, names: list[str], annotations: list[VocAnnotation], source: Path) -> list[str]:
    """The image of each annotation, relative to `image_dir`.

    The XML file's own name decides: what <filename> says is often of another machine, or copied from another image.

    Raises:
        UserError: none of the first images is there.
    """
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for path in list_images(image_dir):
        relative = path.relative_to(image_dir)
        by_stem[relative.with_suffix("").as_posix()].append(relative.as_posix())
    found = []
    for name, annotation in zip(names, annotations, strict=True):
        stated = annotation.file_name or f"{name}.jpg"
        same_stem = by_stem.get(name, [])
        found.append(stated if stated in same_stem or not same_stem else same_stem[0])
    if not any(exists(image_dir / name) for name in found):
        raise UserError(f"{source}: no image {found[0]!r:.80} nor any other listed in {image_dir}")
    return found


def read_annotation(path: Path) -> VocAnnotation:
    """Parse one XML file.

    Raises:
        UserError: it is not VOC; the message names file and element.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        root = ElementTree.fromstring(data, ElementTree.XMLParser(target=PlainTreeBuilder()))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the others: unknown encodings
        raise UserError(f"{path} is not valid XML: {error}; save it as UTF-8") from None
    if root.tag != "annotation":
        raise UserError(f"{path} is not VOC: the outermost element is <{root.tag:.80}>, not <annotation>")
    objects = [read_object(item, f"{path}: object {i}") for i, item in enumerate(root.findall("object"), start=1)]
    return VocAnnotation((root.findtext("filename") or "").strip() or None, read_size(root), objects)


def read_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width), or None where they are missing or, as tools write them, 0."""
    try:
        height, width = (int(root.findtext(f"size/{side}") or "") for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height >= 1 and width >= 1 and max(height, width) <= MAX_COORDINATE else None


def read_object(item: ElementTree.Element, where: str) -> VocObject:
    """One <object>; its parts, such as a person's head, are no objects of their own.

    Raises:
        UserError: something is missing or not a number.
    """
    name = (item.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{where} has no <name>")
    box = item.find("bndbox")
    if box is None:
        raise UserError(f"{where} ({name!r:.80}) has no <bndbox>")
    xmin, ymin, xmax, ymax = (read_coordinate(box, side, where) for side in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (item.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1", "Unspecified"):
        raise UserError(f"{where}: difficult is {difficult!r:.80}, not 0 or 1")
    return VocObject(name, (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1), difficult == "1")


def read_coordinate(box: ElementTree.Element, side: str, where: str) -> float:
    """A finite number of pixels.

    Raises:
        UserError: it is none.
    """
    text = box.findtext(side)
    if text is None:
        raise UserError(f"{where} has no <{side}>")
    try:
        value = float(text) if "_" not in text else math.nan  # Python takes 1_0 for 10
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_COORDINATE:
        raise UserError(f"{where}: {side} is {text!r:.80}, not a number of pixels")
    return value
