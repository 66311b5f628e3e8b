"""Read data.yaml, which says where YOLO data has its images and what its classes are called."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import yaml

from yolo_lite.data.layouts import ALIASES, MissingSplitError, Split, list_images
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)


class TextLoader(yaml.BaseLoader):
    """Leaves every value a text, so that a class named `no` or `1e3` keeps its name; refuses keys that come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else True:
                raise yaml.constructor.ConstructorError(problem=f"key {shorten(key.value)} is no text or comes twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


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


def count_keypoint_columns(settings: dict[str, Any], path: Path) -> int:
    """Columns of key points behind each box: `kpt_shape: [17, 3]` has 51; 0 without it.

    Raises:
        UserError: it is not the number of points and of values for each.
    """
    shape = settings.get("kpt_shape")
    if not shape:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, str) and n.isdecimal() for n in shape):
        raise UserError(
            f"{path}: kpt_shape is {shape!r:.80}: give points and values for each, as [17, 3], or remove it"
        )
    return int(shape[0]) * int(shape[1])


def split_images(settings: dict[str, Any], path: Path, split: Split) -> list[Path]:
    """The image files of a split, sorted.

    Raises:
        MissingSplitError: data.yaml does not name it, or it is a test split that is not there.
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


def locate(place: str, path: Path, base: str, key: str) -> Path:
    """The folder or file that an entry of data.yaml means.

    Raises:
        MissingSplitError: it is not there, and is that of the test split.
        UserError: it is not there.
    """
    tried = [folder / place for folder in bases(path, base)]
    if "\\" in place:  # written on Windows
        tried += [folder / place.replace("\\", "/") for folder in bases(path, base)]
    if place.startswith("../"):  # Roboflow writes ../train/images for the train/images beside data.yaml
        tried.append(bases(path, base)[1] / place.removeprefix("../"))
    # By the text of the path, as links are written for people: the parent of a linked folder is where the link stands.
    tried = list(dict.fromkeys(Path(os.path.normpath(place)) for place in tried))
    for found in tried:
        if exists(found):
            return found
    # Exports name a test split whether they have one or not.
    kind = MissingSplitError if key in ALIASES["test"] else UserError
    raise kind(f"{path}: {key} names {shorten(place)}, which is not there (looked for {', '.join(map(str, tried))})")


def bases(path: Path, base: str) -> list[Path]:
    """Where relative paths may start: `path:` of data.yaml, which may be another machine's, then its own folder."""
    own = Path(os.path.abspath(path)).parent
    return [own / base, own]


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
    start = next((s for s in starts if any(exists(s / line) for line in sample)), None)
    if start is None and any("\\" in line for line in sample):  # written on Windows
        lines, sample = ([line.replace("\\", "/") for line in some] for some in (lines, sample))
        start = next((s for s in starts if any(exists(s / line) for line in sample)), None)
    start = starts[0] if start is None else start
    return [Path(os.path.normpath(start / line)) for line in lines]


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


def exists(path: Path) -> bool:
    """It is there; names that the file system does not take are not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def shorten(value: Any) -> str:
    """A text in quotes, or what else it is: nested YAML may be far longer than its file."""
    return f"{value!r:.80}" if isinstance(value, str) else "missing" if value is None else f"a {type(value).__name__}"
