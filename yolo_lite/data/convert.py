"""Write a data set of any format as COCO JSON: `python -m yolo_lite.data.convert --data.root DIR --out DIR2`.

Exit codes: 0 done, 2 something that you can mend (one line says what).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jsonargparse import ArgumentParser

from yolo_lite.data.catalog import open_splits
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import Split
from yolo_lite.utils.console import run_command
from yolo_lite.utils.errors import UserError

log = logging.getLogger("yolo_lite.data.convert")  # as a command, __name__ is __main__

Images = Literal["reference", "link", "copy"]


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.data.convert",
        description="Write a data set as COCO JSON. Exit codes: 0 done, 2 something that you can mend.",
        exit_on_error=False,
    )
    parser.add_argument("--data.root", type=str, required=True, help="the data set's folder, or its data.yaml")
    parser.add_argument("--out", type=str, required=True, help="new folder for annotations/train.json, val.json, ...")
    parser.add_argument(
        "--copy-images", action="store_true", help="copy the images; otherwise the JSON has their full paths"
    )
    parser.add_argument("--link", action="store_true", help="make symbolic links to the images")
    parser.add_argument(
        "--data.max_bad_images", type=float, default=0.1, help="share of unusable images that is left out and named"
    )
    return parser


def convert(root: Path, out: Path, images: Images = "reference", max_bad_images: float = 0.1) -> list[Split]:
    """Write every split of a data set, all or nothing.

    Args:
        root: the data set's folder, or its data.yaml.
        out: folder to write; absent or empty.
        images: name the images by their full paths, or link or copy them to `out`/images/SPLIT.
        max_bad_images: share of unusable images that is tolerated; they are left out and named.

    Returns:
        The splits that there are.

    Raises:
        UserError: the data is wrong, or `out` is there already or cannot be written.
    """
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another --out or remove it")
    indexes = open_splits(root, get_args(Split), max_bad_images)
    target = Path(os.path.abspath(out))
    scratch = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        (scratch / "annotations").mkdir(parents=True)
        for split, index in indexes.items():
            names = place_images(index, scratch / "images" / split, images)
            with open(scratch / "annotations" / f"{split}.json", "w", encoding="utf-8") as file:
                json.dump(coco_content(index, names), file)
        os.rename(scratch, target)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for split, index in indexes.items():
        log.info("%s: %d images, %d boxes", out / "annotations" / f"{split}.json", len(index), len(index.labels))
    return list(indexes)


def place_images(index: DetectionIndex, folder: Path, images: Images) -> list[str]:
    """Link or copy the images as asked; returns their names for the annotations."""
    if images == "reference":
        return [os.path.abspath(index.path(i)) for i in range(len(index))]
    names = []
    for i in range(len(index)):
        name = Path(index.file_names[i])
        if name.is_absolute() or ".." in name.parts:  # would lie outside `folder`
            name = Path(f"{index.image_ids[i]}{name.suffix}")
        target = folder / name
        if os.path.lexists(target):
            raise UserError(f"{index.source}: two images would be {name}; convert without --copy-images and --link")
        target.parent.mkdir(parents=True, exist_ok=True)
        if images == "copy":
            shutil.copy2(index.path(i), target)
        else:
            os.symlink(os.path.abspath(index.path(i)), target)
        names.append(name.as_posix())
    return names


def coco_content(index: DetectionIndex, names: list[str]) -> dict[str, Any]:
    """The index as COCO JSON; `names` are those of its images. Reading it gives the same index."""
    image_ids = index.image_ids.tolist()
    images = [
        {"id": image_id, "file_name": name, "height": height, "width": width}
        for image_id, name, (height, width) in zip(image_ids, names, index.sizes.tolist(), strict=True)
    ]
    owners = np.repeat(index.image_ids, np.diff(index.offsets)).tolist()
    boxes = shortest(index.boxes_xywh)
    areas = shortest(index.areas)
    annotations = [
        {
            "id": i + 1,
            "image_id": owner,
            "category_id": index.category_ids[label],
            "bbox": boxes[4 * i : 4 * i + 4],
            "area": areas[i],
            "iscrowd": crowd,
        }
        for i, (owner, label, crowd) in enumerate(
            zip(owners, index.labels.tolist(), index.is_crowd.astype(int).tolist(), strict=True)
        )
    ]
    categories = zip(index.category_ids, index.class_names, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category_id, "name": name} for category_id, name in categories],
    }


def shortest(values: np.ndarray) -> list[float]:
    """All float32 values as the shortest decimals that give them back."""
    return [float(str(value)) for value in values.ravel()]


def main(args: list[str] | None = None) -> int:
    """Convert with command-line arguments (None: those of the process). Returns the exit code."""

    def command() -> None:
        config = build_parser().parse_args(args)
        if config.copy_images and config.link:
            raise UserError("--copy-images and --link exclude each other: give one")
        images: Images = "copy" if config.copy_images else "link" if config.link else "reference"
        convert(Path(config.data.root), Path(config.out), images, config.data.max_bad_images)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
