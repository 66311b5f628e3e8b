"""Open and check the splits of a data set before anything expensive starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolo_lite.data.coco import read_coco, visible_boxes
from yolo_lite.data.image_check import BadImages, ImageCheck, check_images
from yolo_lite.data.index import DetectionIndex, read_header
from yolo_lite.data.index_cache import open_or_make, saved_index_folder
from yolo_lite.data.layouts import MissingSplitError, Split, SplitSource, find_split, pick_image_dir
from yolo_lite.data.voc import read_voc
from yolo_lite.data.yolo_txt import read_yolo
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)


def open_split(
    root: Path,
    split: Split,
    annotations: Path | None = None,
    image_dir: Path | None = None,
    max_bad_images: float = 0.1,
    index_cache: Path | None = None,
) -> DetectionIndex:
    """Find, parse and check one split.

    Args:
        root: the data set's folder.
        split: which one.
        annotations: its annotation file, if it is not where it is looked for.
        image_dir: its image folder, likewise.
        max_bad_images: share of unusable images that is tolerated; they are left out and named.
        index_cache: where the indices of large annotation files are kept; None: see `saved_index_folder`.

    Raises:
        UserError: the split is not there, is not COCO, or too many of its images are unusable.
    """
    source = find_split(root, split, annotations, image_dir)
    if source.format == "yolo":
        index, inspected = read_yolo(source.annotations, split)
        return drop_bad_images(index, max_bad_images, ImageCheck.collect(inspected, len(index)))[0]
    if source.format == "voc":
        return drop_bad_images(read_voc(source.annotations, source.image_dirs[0]), max_bad_images)[0]
    return open_coco(source, max_bad_images, index_cache)


def open_splits(root: Path, splits: Sequence[Split], max_bad_images: float) -> dict[Split, DetectionIndex]:
    """Those of the splits that there are, see `open_split`.

    Raises:
        UserError: there is none of them, or one cannot be used.
    """
    indexes: dict[Split, DetectionIndex] = {}
    missing: MissingSplitError | None = None
    for split in splits:
        try:
            indexes[split] = open_split(root, split, max_bad_images=max_bad_images)
        except MissingSplitError as error:
            missing = missing or error
    if missing is not None and not indexes:
        raise missing
    return indexes


def read_split(source: SplitSource, split: Split) -> DetectionIndex:
    """A split as its annotations have it: no image is left out, sizes are not corrected.

    Raises:
        UserError: it cannot be read.
    """
    if source.format == "yolo":
        return read_yolo(source.annotations, split)[0]
    if source.format == "voc":
        return read_voc(source.annotations, source.image_dirs[0])
    return read_coco_source(source)


def read_coco_source(source: SplitSource) -> DetectionIndex:
    """A COCO file, with the folder that its images are in."""
    index = read_coco(source.annotations, source.image_dirs[0])
    index.image_dir = pick_image_dir(source, first_and_last(index))
    return index


def open_coco(source: SplitSource, max_bad_images: float, index_cache: Path | None = None) -> DetectionIndex:
    """Parse and check a COCO file, or open what was kept of it."""

    def read() -> tuple[DetectionIndex, BadImages]:
        return drop_bad_images(read_coco_source(source), max_bad_images)

    folder = saved_index_folder(source, index_cache)
    if folder is None:
        return read()[0]
    index, is_new = open_or_make(folder, read)
    if not is_new:
        index.source = source.annotations
        index.image_dir = pick_image_dir(source, first_and_last(index))
        kept = f" (as seen when {folder} was written: delete it after changes to the images)"
        BadImages(**read_header(folder)["notes"]).report(source.annotations, max_bad_images, kept)
    return index


def first_and_last(index: DetectionIndex) -> list[str]:
    """A few file names."""
    count = len(index)
    return [index.file_names[i] for i in (*range(min(20, count)), *range(max(0, count - 5), count))]


def drop_bad_images(
    index: DetectionIndex, max_bad_images: float, check: ImageCheck | None = None
) -> tuple[DetectionIndex, BadImages]:
    """The index without unusable images, with the sizes that the files really have, and what was left out.

    Args:
        index: the split.
        max_bad_images: share of unusable images that is tolerated.
        check: what is known of its images; None: look at them.

    Raises:
        UserError: more than the share `max_bad_images` of the images.
    """
    check = check_images(index) if check is None else check
    check.bad.report(index.source, max_bad_images)
    keep = np.flatnonzero(check.is_good)
    if check.bad.count:
        index = index.select(keep)
    return with_sizes(index, check.sizes[keep]), check.bad


def with_sizes(index: DetectionIndex, sizes: np.ndarray) -> DetectionIndex:
    """The index with the sizes (N, 2) of the files; a warning where the annotations say otherwise."""
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
