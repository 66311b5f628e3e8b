"""Find annotation file and image folder of each split in the layouts that people have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from yolo_lite.utils.errors import UserError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class SplitSource:
    """Where a split is: its annotation file and the folders its images may be in, most likely first."""

    annotations: Path
    image_dirs: tuple[Path, ...]


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
    if not root.is_dir():
        raise UserError(f"no data folder {root} (--data.root)")
    if annotations is not None:
        path = root / annotations
        if not path.is_file():
            raise UserError(f"no annotation file {path} (--data.{split}_annotations)")
        source = SplitSource(path, (path.parent, root / "images" / split, root / "images", root / split, root))
    else:
        places = candidates(root, split)
        existing = [place for place in places if place.annotations.is_file()]
        if not existing:
            looked = ", ".join(str(p.annotations.relative_to(root)) for p in places)
            hint = f"give --data.{split}_annotations"
            looked = f"annotations/instances_{split}*.json, {looked}"
            raise UserError(f"no {split} annotations in {root} (looked for {looked}); {hint}")
        source = existing[0]
    if image_dir is not None:
        folder = root / image_dir
        if not folder.is_dir():
            raise UserError(f"no image folder {folder} (--data.{split}_images)")
        source = SplitSource(source.annotations, (folder,))
    return source


def is_filled(folder: Path) -> bool:
    """It is there and not empty."""
    return folder.is_dir() and any(folder.iterdir())


def pick_image_dir(source: SplitSource, file_names: list[str]) -> Path:
    """The folder that holds the images: the first in which one of a few listed files exists.

    Raises:
        UserError: none of the folders has any of them.
    """
    sample = file_names[:20] + file_names[-5:]
    for folder in source.image_dirs:
        if any((folder / name).is_file() for name in sample):
            return folder
    looked = ", ".join(str(folder) for folder in source.image_dirs)
    raise UserError(f"{source.annotations}: no image {json.dumps(sample[0])} nor the others listed in any of {looked}")
