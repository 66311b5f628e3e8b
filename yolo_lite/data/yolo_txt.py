"""Read YOLO labels: data.yaml, image folders or lists, one text file an image with rows `class cx cy w h`.

Coordinates are shares of the image's width and height, so the sizes of the image files are needed to read them. A row
`class x y x y x y ...` is a polygon and gives the box around it.
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from yolo_lite.data.build import Rows, build_index
from yolo_lite.data.images import ImageProblem, inspect_images
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import ALIASES, MissingSplitError, Split, list_images
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


class TextLoader(yaml.BaseLoader):
    """Leaves every value a text, so that a class named `no` or `1e3` keeps its name; refuses keys that come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else True:
                raise yaml.constructor.ConstructorError(problem=f"key {shorten(key.value)} is no text or comes twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


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
        parsed = parse_labels(text, len(class_names), label_file)
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


def read_text(path: Path) -> str | None:
    """The content; None where there is no such file.

    Raises:
        UserError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """data.yaml, every value a text.

    Raises:
        UserError: missing or not a YAML mapping.
    """
    text = read_text(path)
    if text is None:
        raise UserError(f"no file {path}")
    try:
        content = yaml.load(text, Loader=TextLoader)  # a BaseLoader: it makes texts, lists and mappings, no objects
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not valid YAML: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a data.yaml: it holds no `names:`, `train:`, `val:`")
    return content


def read_class_names(settings: dict[str, Any], path: Path) -> list[str]:
    """Class names by number, from a list or a mapping `0: name`.

    Raises:
        UserError: there are none, or they do not fit their numbers or `nc`.
    """
    names = settings.get("names")
    if isinstance(names, dict):
        missing = next((str(i) for i in range(len(names)) if str(i) not in names), None)
        if missing is not None:
            raise UserError(f"{path}: names has {len(names)} entries and none for {missing}: number them from 0")
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: names is {shorten(names)}: list the class names in the order of their numbers")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: names[{i}] is {shorten(name)}, not a text")
        if name in names[:i]:
            raise UserError(f"{path}: two classes have the name {name!r:.80}")
    count = settings.get("nc", str(len(names)))
    if count != str(len(names)):
        raise UserError(f"{path}: nc is {shorten(count)} and names has {len(names)}: make them agree")
    return names


def split_images(settings: dict[str, Any], path: Path, split: Split) -> list[Path]:
    """The image files of a split, sorted.

    Raises:
        MissingSplitError: data.yaml does not name it.
        UserError: what it names is not there or holds no images.
    """
    key = next((name for name in ALIASES[split] if settings.get(name)), None)
    if key is None:
        raise MissingSplitError(f"{path} has no {split!r}: add `{split}:` with the folder of its images")
    value = settings[key]
    places = value if isinstance(value, list) else [value]
    base = settings.get("path", "")
    if not isinstance(base, str) or not all(isinstance(place, str) and place for place in places):
        raise UserError(f"{path}: {key} (and path) must be a folder, a list of folders or a .txt file with image paths")
    images: list[Path] = []
    for place in places:
        found = locate(place, path, base, key)
        images += list_images(found) if found.is_dir() else listed_images(found, path, base)
    unique = sorted(set(images))
    if not unique:
        raise UserError(f"{path}: no images in {key}: {shorten(places[0])}")
    if len(unique) < len(images):
        log.warning("%s: %d images of %s are listed twice and used once", path, len(images) - len(unique), split)
    return unique


def bases(path: Path, base: str) -> list[Path]:
    """Where relative paths may start: `path:` of data.yaml, which may be another machine's, then its own folder."""
    own = Path(os.path.abspath(path)).parent
    return [own / base, own]


def locate(place: str, path: Path, base: str, key: str) -> Path:
    """The folder or file that an entry of data.yaml means.

    Raises:
        UserError: it is not there.
    """
    tried = [folder / place for folder in bases(path, base)]
    if place.startswith("../"):  # Roboflow writes ../train/images for the train/images beside data.yaml
        tried.append(bases(path, base)[1] / place.removeprefix("../"))
    # By the text of the path, as links are written for people: the parent of a linked folder is where the link stands.
    tried = list(dict.fromkeys(Path(os.path.normpath(place)) for place in tried))
    for found in tried:
        if exists(found):
            return found
    raise UserError(
        f"{path}: {key} names {shorten(place)}, which is not there (looked for {', '.join(map(str, tried))})"
    )


def exists(path: Path) -> bool:
    """It is there; names that the file system does not take are not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def listed_images(listing: Path, path: Path, base: str) -> list[Path]:
    """The image files that a text file names, one a line.

    Raises:
        UserError: it is not a list of images.
    """
    text = read_text(listing) if listing.suffix.lower() == ".txt" else None
    if text is None:
        raise UserError(f"{path} names {listing}, which is neither a folder nor a .txt file with image paths")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    starts = [*bases(path, base), listing.parent]
    sample = lines[:20] + lines[-5:]
    start = next((s for s in starts if any(exists(s / line) for line in sample)), starts[0])
    return [Path(os.path.normpath(start / line)) for line in lines]


def label_files(images: list[Path]) -> list[Path]:
    """Where the labels of each image are: beside the images, if that is where there are any, else under labels."""
    usual = [label_file(image) for image in images]
    if not any(exists(path) for path in usual):
        beside = [image.with_suffix(".txt") for image in images]
        if any(exists(path) for path in beside):
            return beside
    return usual


def label_file(image: Path) -> Path:
    """`.../images/a/b.jpg` -> `.../labels/a/b.txt`: the last folder named images counts."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def parse_labels(text: str, num_classes: int, path: Path) -> list[LabelRow]:
    """The rows of a label file.

    Raises:
        UserError: a row is wrong; the message names file and line.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        tokens = line.split()
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


def shorten(value: Any) -> str:
    """A text in quotes, or what else it is: nested YAML may be far longer than its file."""
    return f"{value!r:.80}" if isinstance(value, str) else "missing" if value is None else f"a {type(value).__name__}"
