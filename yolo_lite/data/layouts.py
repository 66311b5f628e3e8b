"""Find annotation file and image folder of each split in the layouts that people have."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

# What marks a streamed data set (stream_store.py).
STREAM_FILE = "stream.json"

Split = Literal["train", "val", "test"]
Format = Literal["coco", "yolo", "voc"]


class MissingSplitError(UserError):
    """The data set has no such split."""


@dataclass(frozen=True)
class SplitSource:
    """Where a split is.

    Attributes:
        annotations: COCO: the JSON file. YOLO: data.yaml. VOC: the list of the split's images, or the folder with them.
        image_dirs: the folders its images may be in, most likely first; none with YOLO, where data.yaml names them.
        format: how it is written.
    """

    annotations: Path
    image_dirs: tuple[Path, ...]
    format: Format = "coco"


# A split goes by several names.
ALIASES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def candidates(root: Path, split: Split) -> list[SplitSource]:
    """Every place where the split may be, in the order of preference."""
    found = []
    for name in ALIASES[split]:
        official = []
        for path in sorted((root / "annotations").glob(f"instances_{name}*.json"), reverse=True):
            folder = path.stem.removeprefix("instances_")  # official COCO: instances_train2017.json, train2017/
            official.append(SplitSource(path, (root / folder, root / "images" / folder, root / "images")))
        # The annotations of 2014 and 2017 come together: first those with images at hand, then the newer.
        found += sorted(official, key=lambda source: not any(map(is_filled, source.image_dirs[:2])))
    for name in ALIASES[split]:
        plain = (root / "images" / name, root / "images", root / name, root)
        found.append(SplitSource(root / "annotations" / f"{name}.json", plain))
        found.append(SplitSource(root / name / "_annotations.coco.json", (root / name,)))  # Roboflow
        found.append(SplitSource(root / f"{name}.json", plain))
    return found


IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
YAML_SUFFIXES = (".yaml", ".yml")


def find_yaml(root: Path) -> Path | None:
    """The data.yaml of YOLO data: `root` itself, or in it."""
    if root.is_file():
        return root if root.suffix in YAML_SUFFIXES else None
    return next((root / name for name in ("data.yaml", "data.yml") if (root / name).is_file()), None)


def voc_candidates(root: Path, split: Split) -> list[SplitSource]:
    """Every place where a VOC split may be: in `root` or, as in VOC's own archives, one or two folders further down."""
    found = []
    for folder in [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/*"))]:
        lists = folder / "ImageSets" / "Main"
        for name in (*ALIASES[split], *(["trainval"] if split == "train" else [])):
            found.append(SplitSource(lists / f"{name}.txt", (folder / "JPEGImages",), "voc"))
    found += [SplitSource(root / name, (root / name,), "voc") for name in ALIASES[split]]  # Roboflow's VOC
    return found


def is_voc(source: SplitSource) -> bool:
    """It is there: a list of images, or a folder with XML files."""
    return source.annotations.is_file() or any(source.annotations.glob("*.xml"))


def find_voc(root: Path, split: Split) -> SplitSource | None:
    """The VOC data of a split.

    Raises:
        UserError: several years of it are there.
    """
    existing = [source for source in voc_candidates(root, split) if is_voc(source)]
    folders = sorted({str(source.image_dirs[0].parent) for source in existing})
    if len(folders) > 1:
        raise UserError(f"{root} holds several VOC data sets: give one of {', '.join(folders)} (--data.root)")
    return existing[0] if existing else None


@lru_cache
def say_once(message: str) -> None:
    """Log what would otherwise be said again for each split."""
    log.info("%s", message)


def find_other_format(root: Path, split: Split) -> SplitSource | None:
    """YOLO or VOC, where there is no COCO file at all.

    Raises:
        UserError: YOLO labels without data.yaml.
    """
    yaml = find_yaml(root)
    if yaml is not None:
        if any(map(is_voc, voc_candidates(root, split))):
            say_once(f"{root} holds {yaml.name} and VOC annotations: {yaml.name} is read")
        return SplitSource(yaml, (), "yolo")
    voc = find_voc(root, split)
    if voc is not None:
        return voc
    for labels in (root / "labels", *(root / name / "labels" for name in ALIASES[split])):
        if labels.is_dir():
            images = "train/images" if labels.parent != root else "images/train"
            places = [images.replace("train", name) for name in ALIASES["val"]]
            val = next((place for place in places if (root / place).is_dir()), places[0])
            others = sorted(path.name for suffix in YAML_SUFFIXES for path in root.glob(f"*{suffix}"))
            instead = f", or give --data.root {root / others[0]}" if others else ""
            raise UserError(
                f"{root} holds YOLO labels ({labels.relative_to(root)}/) and no data.yaml: write one with the lines "
                f"`train: {images}`, `val: {val}` and `names: [first, second]` (the class "
                f"names in the order of their numbers){instead}"
            )
    return None


def list_images(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, without: Path | None = None) -> list[Path]:
    """The image files in a folder and below, sorted; hidden ones, such as macOS leaves on shared disks, are none.

    Linked folders are followed, each once: links may lead in circles.

    Args:
        folder: where to look.
        suffixes: of the files, in lower case.
        without: a folder to leave out with all below it.
    """
    found = []
    seen = set() if without is None else {os.path.realpath(without)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()  # of two ways to a folder, always the same one
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        found += [Path(parent, n) for n in names if Path(n).suffix.lower() in suffixes and not n.startswith(".")]
    return sorted(found)


def find_split(root: Path, split: Split, annotations: Path | None = None, image_dir: Path | None = None) -> SplitSource:
    """Locate one split.

    Args:
        root: the data set's folder.
        split: which one.
        annotations: use this annotation file (relative to `root` or absolute).
        image_dir: look for the images here (relative to `root` or absolute).

    Raises:
        UserError: nothing there; the message says where it was looked for.
    """
    if not root.exists():
        raise UserError(f"no data folder {root} (--data.root)")
    if (root / STREAM_FILE).is_file():
        raise UserError(f"{root} is streamed data, which only train.py and eval.py read: give what it was made from")
    if root.is_file() and find_yaml(root) is None:
        raise UserError(f"{root} is neither a data folder nor a data.yaml (--data.root)")
    if annotations is not None:
        path = root / annotations
        if not path.is_file():
            raise UserError(f"no annotation file {path} (--data.{split}_annotations)")
        source = SplitSource(path, (path.parent, root / "images" / split, root / "images", root / split, root))
    else:
        source = discover(root, split)
    if image_dir is not None and source.format != "coco":
        raise UserError(
            f"--data.{split}_images goes with COCO annotations; {source.annotations} names its images itself"
        )
    if image_dir is not None:
        folder = root / image_dir
        if not folder.is_dir():
            raise UserError(f"no image folder {folder} (--data.{split}_images)")
        source = SplitSource(source.annotations, (folder,))
    return source


def discover(root: Path, split: Split) -> SplitSource:
    """The split in the format of the data set: COCO before YOLO before VOC, the same one for all splits.

    Raises:
        MissingSplitError: it is not there; the message says where it was looked for.
    """
    if root.is_file():
        return SplitSource(root, (), "yolo")
    places = candidates(root, split)
    source = next((place for place in places if place.annotations.is_file()), None)
    has_coco = source is not None or any(p.annotations.is_file() for s in ALIASES for p in candidates(root, s))
    yaml = find_yaml(root)
    if not has_coco:
        source = find_other_format(root, split)
    elif yaml is not None or (root / "ImageSets").is_dir():
        say_once(
            f"{root} holds COCO annotations and {yaml.name if yaml else 'ImageSets'}: the COCO annotations are read"
        )
    if source is not None:
        return source
    looked = ", ".join(str(p.annotations.relative_to(root)) for p in places)
    raise MissingSplitError(
        f"no {split} annotations in {root} (looked for annotations/instances_{split}*.json, {looked}, data.yaml, "
        f"ImageSets/Main/{split}.txt); give --data.{split}_annotations"
    )


def is_filled(folder: Path) -> bool:
    """It is there and not empty."""
    return folder.is_dir() and any(folder.iterdir())


def is_file(path: Path) -> bool:
    """A file is there; names that the file system does not take are none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def pick_image_dir(source: SplitSource, file_names: list[str]) -> Path:
    """The folder that holds the images: the first in which one of a few listed files exists.

    Raises:
        UserError: none of the folders has any of them.
    """
    sample = file_names[:20] + file_names[-5:]
    for folder in source.image_dirs:
        if any(is_file(folder / name) for name in sample):
            return folder
    looked = ", ".join(str(folder) for folder in source.image_dirs)
    raise UserError(
        f"{source.annotations}: no image {json.dumps(sample[0]):.80} nor the others listed in any of {looked}"
    )
