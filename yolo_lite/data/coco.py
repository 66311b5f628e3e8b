"""Read COCO detection JSON into a `DetectionIndex`, saying exactly what is wrong where something is."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from yolo_lite.data.coco_entries import read_lists
from yolo_lite.data.index import DetectionIndex, PackedStrings
from yolo_lite.data.json_stream import CHUNK_BYTES
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

# Less than this of a box (pixels of the original image) is nothing to learn from.
MIN_SIDE = 1.0


def read_coco(path: Path, image_dir: Path, chunk_bytes: int = CHUNK_BYTES) -> DetectionIndex:
    """Parse a COCO file, holding little more than the arrays of the result.

    Category ids become class indices in the order of the ids, whatever their gaps. Boxes outside their image or
    without extent stay in the index for scoring, are not trained on, and are counted in one warning.

    Args:
        path: the file.
        image_dir: the folder that its file names are relative to.
        chunk_bytes: how much is read at a time.

    Raises:
        UserError: not COCO, with the key and the index that are wrong.
    """
    categories, images, annotations = read_lists(path, chunk_bytes)
    used_ids = annotations.take("category_ids")
    class_names, category_ids = categories.names_and_ids(path, used_ids)
    if not images.ids:
        raise UserError(f"{path} lists no images")
    labels = class_indices(path, category_ids, used_ids)
    del used_ids
    image_ids = np.asarray(images.ids)
    sizes = np.asarray(images.sizes).reshape(-1, 2)
    owner = positions_of_images(path, image_ids, annotations.take("image_ids"))
    mask_rows, mask_sizes = annotations.take("mask_rows"), annotations.take("mask_sizes").reshape(-1, 2)
    check_masks(path, mask_rows, mask_sizes, sizes[owner[mask_rows]])

    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    boxes = annotations.take("boxes").reshape(-1, 4)[order]
    is_crowd = annotations.take("is_crowd")[order].astype(bool)
    inside = visible_boxes(boxes, sizes[owner])
    report_boxes(path, boxes, sizes[owner], inside)
    return DetectionIndex(
        source=path,
        image_dir=image_dir,
        class_names=class_names,
        category_ids=category_ids,
        file_names=PackedStrings.wrap(np.frombuffer(images.names, np.uint8), np.asarray(images.name_ends)),
        image_ids=image_ids,
        sizes=sizes,
        offsets=np.searchsorted(owner, np.arange(len(image_ids) + 1)).astype(np.int64),
        boxes_xywh=boxes,
        labels=labels[order],
        areas=annotations.take("areas")[order],
        is_crowd=is_crowd,
        is_trainable=inside & ~is_crowd,
    )


def positions_of_images(path: Path, image_ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(M,) int64 positions in `image_ids` (N,) of the ids `wanted` (M,) by the annotations.

    Raises:
        UserError: two images have the same id, or an annotation one that no image has.
    """
    order = np.argsort(image_ids, kind="stable")
    ordered = image_ids[order]
    repeated = order[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        i = int(repeated.min())
        first = order[np.searchsorted(ordered, image_ids[i])]
        raise UserError(f"{path}: images[{i}] has the id {image_ids[i]} of images[{first}]")
    place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    unknown = np.flatnonzero(ordered[place] != wanted)
    if len(unknown):
        i = int(unknown[0])
        raise UserError(f"{path}: annotations[{i}]: image_id {wanted[i]} is not in 'images'")
    return order[place]


def check_masks(path: Path, rows: np.ndarray, mask_sizes: np.ndarray, sizes: np.ndarray) -> None:
    """The box of a mask is one in pixels of its image only where both have one size.

    Args:
        path: the file.
        rows: (K,) positions of the annotations whose box is that of an RLE.
        mask_sizes: (K, 2) height, width of the masks.
        sizes: (K, 2) height, width of their images.

    Raises:
        UserError: a mask has another size.
    """
    differs = np.flatnonzero((mask_sizes != sizes).any(axis=1))
    if len(differs):
        k = int(differs[0])
        (height, width), (image_height, image_width) = mask_sizes[k], sizes[k]
        raise UserError(
            f"{path}: annotations[{rows[k]}]: the segmentation is of {width}x{height} pixels, its image of "
            f"{image_width}x{image_height}; give a bbox, or a mask of the image's size"
        )


def class_indices(path: Path, category_ids: list[int], wanted: np.ndarray) -> np.ndarray:
    """(M,) int32 class indices of the category ids `wanted` (M,) by the annotations.

    Raises:
        UserError: an annotation has one that is not in `category_ids`, which are ascending.
    """
    ordered = np.array(category_ids, dtype=np.int64)
    labels = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1).astype(np.int32)
    unknown = np.flatnonzero(ordered[labels] != wanted)
    if len(unknown):
        i = int(unknown[0])
        raise UserError(f"{path}: annotations[{i}]: category_id {wanted[i]} is not in 'categories'")
    return labels


def visible_boxes(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(M,) bool: at least `MIN_SIDE` pixels of the box lie inside its image. `sizes` are (M, 2) height, width."""
    low = np.maximum(boxes_xywh[:, :2], 0)
    high = np.minimum(boxes_xywh[:, :2] + boxes_xywh[:, 2:], sizes[:, ::-1].astype(np.float32))
    return ((high - low) >= MIN_SIDE).all(axis=1)


def report_boxes(path: Path, boxes_xywh: np.ndarray, sizes: np.ndarray, inside: np.ndarray) -> None:
    """One warning that counts what will be clipped and what will be dropped."""
    over = (boxes_xywh[:, :2] < 0) | (boxes_xywh[:, :2] + boxes_xywh[:, 2:] > sizes[:, ::-1] + 0.5)
    clipped = int((over.any(axis=1) & inside).sum())
    dropped = int((~inside).sum())
    if clipped or dropped:
        log.warning(
            "%s: %d boxes reach outside their image and are clipped, %d are empty or outside and are not trained on",
            path,
            clipped,
            dropped,
        )
