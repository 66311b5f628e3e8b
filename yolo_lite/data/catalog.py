"""Open and check the splits of a data set before anything expensive starts."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from yolo_lite.data.coco import read_coco, visible_boxes
from yolo_lite.data.images import ImageProblem, inspect_images
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import Split, find_split, pick_image_dir
from yolo_lite.data.voc import read_voc
from yolo_lite.data.yolo_txt import read_yolo
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

NAMED_PROBLEMS = 5


def open_split(
    root: Path,
    split: Split,
    annotations: Path | None = None,
    image_dir: Path | None = None,
    max_bad_images: float = 0.1,
) -> DetectionIndex:
    """Find, parse and check one split.

    Args:
        root: the data set's folder, or its data.yaml.
        split: which one.
        annotations: its annotation file, if it is not where it is looked for.
        image_dir: its image folder, likewise.
        max_bad_images: share of unusable images that is tolerated; they are left out and named.

    Raises:
        UserError: the split is not there, is not what its format asks for, or too many of its images are unusable.
    """
    source = find_split(root, split, annotations, image_dir)
    if source.format == "yolo":
        index, inspected = read_yolo(source.annotations, split)
        return drop_bad_images(index, max_bad_images, inspected)
    if source.format == "voc":
        return drop_bad_images(read_voc(source.annotations, source.image_dirs[0]), max_bad_images)
    index = read_coco(source.annotations, source.image_dirs[0])
    names = [index.file_names[i] for i in range(len(index))]
    index.image_dir = pick_image_dir(source, names)
    return drop_bad_images(index, max_bad_images)


def drop_bad_images(
    index: DetectionIndex, max_bad_images: float, inspected: list[tuple[int, int] | ImageProblem] | None = None
) -> DetectionIndex:
    """The index without unusable images, with the sizes that the files really have.

    Args:
        index: the split.
        max_bad_images: share of unusable images that is tolerated.
        inspected: what `inspect_images` said of them; None: ask it.

    Raises:
        UserError: there are more.
    """
    results = inspect_images([index.path(i) for i in range(len(index))]) if inspected is None else inspected
    problems = [result for result in results if isinstance(result, ImageProblem)]
    if problems:
        named = ", ".join(map(str, problems[:NAMED_PROBLEMS]))
        more = f" and {len(problems) - NAMED_PROBLEMS} more" if len(problems) > NAMED_PROBLEMS else ""
        message = f"{index.source}: {len(problems)} of {len(index)} images cannot be used: {named}{more}"
        if len(problems) > max_bad_images * len(index) or len(problems) == len(index):
            raise UserError(f"{message}; mend them or raise --data.max_bad_images (now {max_bad_images:g})")
        log.warning("%s; they are left out", message)
    keep = np.array([i for i, result in enumerate(results) if not isinstance(result, ImageProblem)], dtype=np.int64)
    if problems:
        index = index.select(keep)
    sizes = np.array([results[i] for i in keep], dtype=np.int32)
    differs = np.flatnonzero((sizes != index.sizes).any(axis=1))
    if len(differs):
        i = int(differs[0])
        (height, width), (file_height, file_width) = index.sizes[i], sizes[i]
        log.warning(
            "%s: %d images have another size than the annotations say (%s: %dx%d instead of %dx%d); "
            "boxes are taken as pixels of the file, those outside are not trained on",
            index.source,
            len(differs),
            index.file_names[i],
            file_width,
            file_height,
            width,
            height,
        )
        index.sizes = sizes
        owner = np.repeat(np.arange(len(index)), np.diff(index.offsets))
        index.is_trainable = visible_boxes(index.boxes_xywh, sizes[owner]) & ~index.is_crowd
    return index


def check_same_classes(a: DetectionIndex, b: DetectionIndex) -> None:
    """Both splits must have the same categories, or their labels would mean different things.

    Raises:
        UserError: they differ; the message says how.
    """
    pairs_a = dict(zip(a.category_ids, a.class_names, strict=True))
    pairs_b = dict(zip(b.category_ids, b.class_names, strict=True))
    if pairs_a == pairs_b:
        return
    only_a = sorted(set(pairs_a.items()) - set(pairs_b.items()))
    only_b = sorted(set(pairs_b.items()) - set(pairs_a.items()))
    raise UserError(
        f"{a.source} and {b.source} do not have the same categories: "
        f"only the first has {format_categories(only_a)}, only the second has {format_categories(only_b)}"
    )


def format_categories(pairs: list[tuple[int, str]]) -> str:
    """`1 'dog', 2 'cat'`, or `none`."""
    return ", ".join(f"{i} {name!r}" for i, name in pairs[:5]) + (" ..." if len(pairs) > 5 else "") or "none"
