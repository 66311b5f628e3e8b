"""What can be wrong with boxes and classes, found from the index alone.

Notation: N images, M annotations of a split. Boxes are in pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yolo_lite.data.coco import MIN_SIDE
from yolo_lite.data.findings import MAX_EXAMPLES, Finding, Severity, box_example, image_example, severity_by_share
from yolo_lite.data.index import DetectionIndex

# Coordinates are often rounded up, or counted from 1: a pixel over the edge is nobody's fault.
EDGE_TOLERANCE = 1.0
TINY_SIDE = 2.0  # pixels at the training size: less than a quarter of a cell of the finest usual level
SAME_IOU = 0.95
WHOLE_SHARE = 0.98


def owners(index: DetectionIndex) -> np.ndarray:
    """(M,) position of the image of each annotation."""
    return np.repeat(np.arange(len(index)), np.diff(index.offsets))


def box_findings(index: DetectionIndex, split: str, image_size: int) -> list[Finding]:
    """Boxes outside, empty, duplicated, tiny, as large as the image.

    Args:
        index: the split; `sizes` as the annotations say, or as the files are.
        split: its name.
        image_size: side of the network input, pixels.
    """
    sizes = index.sizes[owners(index)].astype(np.float64)
    width_height = sizes[:, ::-1]
    boxes = index.boxes_xywh.astype(np.float64)
    low, side = boxes[:, :2], boxes[:, 2:]
    high = low + side
    inside = np.minimum(high, width_height) - np.maximum(low, 0)
    is_object = ~index.is_crowd
    empty = (side <= 0).any(axis=1) & is_object
    outside = (inside <= 0).any(axis=1) & is_object & ~empty
    sound = is_object & ~empty & ~outside
    over = ((low < -EDGE_TOLERANCE) | (high > width_height + EDGE_TOLERANCE)).any(axis=1) & sound
    scaled = inside.min(axis=1, initial=np.inf) * image_size / np.maximum(sizes.max(axis=1, initial=1), 1)
    tiny = sound & ((scaled < TINY_SIDE) | (inside < MIN_SIDE).any(axis=1))
    whole = sound & (inside >= WHOLE_SHARE * width_height).all(axis=1)
    total = len(boxes)

    def finding(kind: str, severity: Severity, mask: np.ndarray, message: str, way_out: str) -> list[Finding]:
        rows = np.flatnonzero(mask)
        if not len(rows):
            return []
        examples = [box_example(index, split, int(row), size_of(index, int(row))) for row in rows[:MAX_EXAMPLES]]
        return [Finding(kind, severity, split, len(rows), message, way_out, examples)]

    return [
        *finding(
            "box-outside",
            severity_by_share(int(outside.sum()), total),
            outside,
            "boxes lie outside their image and are not trained on",
            "check the unit (pixels) and whether the images were resized after they were annotated",
        ),
        *finding(
            "box-empty",
            severity_by_share(int(empty.sum()), total),
            empty,
            "boxes have no extent: not trained on, and no detector can find them",
            "delete them or draw them again",
        ),
        *finding(
            "box-partly-outside",
            "warning",
            over,
            "boxes reach outside their image and are clipped for training",
            "clip them in the annotations as well: scoring uses them as they are",
        ),
        *finding(
            "box-duplicate",
            "warning",
            duplicated_boxes(index),
            f"boxes repeat another one of the same image and class (IoU {SAME_IOU} or more)",
            "delete one of each pair: a detector finds the object once and misses the other",
        ),
        *finding(
            "box-tiny",
            "warning",
            tiny,
            f"boxes are less than {TINY_SIDE:g} pixels wide or high at {image_size} px: hardly any anchor fits",
            "raise --data.image_size, cut the images into tiles, or delete them where they are slips of the mouse",
        ),
        *finding(
            "box-whole-image",
            "note",
            whole,
            "boxes cover their whole image",
            "fine where the object fills the picture; otherwise a default that nobody corrected",
        ),
    ]


def size_of(index: DetectionIndex, row: int) -> str:
    """The size of the image of an annotation."""
    i = int(np.searchsorted(index.offsets, row, side="right")) - 1
    height, width = index.sizes[i]
    return f"image {width}x{height}"


def duplicated_boxes(index: DetectionIndex) -> np.ndarray:
    """(M,) bool: an earlier annotation of the same image and class has the same box.

    Sorted by image, class and left side, boxes that overlap so much are close neighbours: each is compared with those
    that follow it as long as their left sides could belong to the same box.
    """
    boxes = index.boxes_xywh.astype(np.float64)
    usable = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1) & ~index.is_crowd)
    owner = owners(index)[usable]
    boxes, labels = boxes[usable], index.labels[usable]
    order = np.lexsort((boxes[:, 0], labels, owner))
    owner, labels, boxes = owner[order], labels[order], boxes[order]
    # Shifted by s of the width, the overlap is at most (1 - s) / (1 + s).
    reach = boxes[:, 0] + boxes[:, 2] * (1 - SAME_IOU) + 1e-6
    is_twin = np.zeros(len(index.labels), dtype=bool)
    start = np.arange(len(boxes))
    for shift in range(1, len(boxes)):
        start = start[start + shift < len(boxes)]
        other = start + shift
        close = (owner[start] == owner[other]) & (labels[start] == labels[other]) & (boxes[other, 0] <= reach[start])
        start, other = start[close], other[close]
        if not len(start):
            break
        same = pair_iou(boxes[start], boxes[other]) >= SAME_IOU
        a, b = usable[order[start[same]]], usable[order[other[same]]]
        is_twin[np.maximum(a, b)] = True
    return is_twin


def pair_iou(a_xywh: np.ndarray, b_xywh: np.ndarray) -> np.ndarray:
    """(P,) IoU of (P, 4) boxes with extent, pair by pair."""
    low = np.maximum(a_xywh[:, :2], b_xywh[:, :2])
    high = np.minimum(a_xywh[:, :2] + a_xywh[:, 2:], b_xywh[:, :2] + b_xywh[:, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=1)
    return np.asarray(inter / (a_xywh[:, 2:].prod(axis=1) + b_xywh[:, 2:].prod(axis=1) - inter))


def class_counts(index: DetectionIndex) -> np.ndarray:
    """(C,) objects of each class, crowds left out."""
    return np.bincount(index.labels[~index.is_crowd], minlength=len(index.class_names))


def empty_findings(index: DetectionIndex, split: str) -> list[Finding]:
    """Images without objects, which are legitimate."""
    empty = np.flatnonzero(np.diff(index.offsets) == 0)
    if not len(empty):
        return []
    examples = [image_example(index, split, int(i)) for i in empty[:MAX_EXAMPLES]]
    way_out = "fine where nothing is in the picture: they teach what is background; otherwise annotate them"
    message = f"images have no objects, of {len(index)}"
    return [Finding("no-objects", "note", split, len(empty), message, way_out, examples)]


def class_findings(splits: dict[str, DetectionIndex]) -> list[Finding]:
    """Classes that one split lists or shows and another does not."""
    train = splits.get("train")
    if train is None:
        return []
    found = []
    seen = {name: class_counts(index) > 0 for name, index in splits.items()}
    names = np.array(train.class_names)
    evaluated = np.zeros(len(names), dtype=bool)
    for split, index in splits.items():
        listed = set(zip(index.category_ids, index.class_names, strict=True))
        differs = listed ^ set(zip(train.category_ids, train.class_names, strict=True))
        if differs:
            message = f"categories are not the same: {named([f'{i} {name}' for i, name in sorted(differs)])}"
            way_out = "give every split the same categories with the same ids"
            found.append(Finding("class-list", "error", f"train, {split}", len(differs), message, way_out))
            continue
        if split == "train":
            continue
        evaluated |= seen[split]
        unseen = np.flatnonzero(seen[split] & ~seen["train"])
        if len(unseen):
            message = f"classes have objects in {split} and none in train: {named(names[unseen])}"
            way_out = "split the images anew, or annotate some in train: what is never shown is never found"
            found.append(Finding("class-missing", "error", f"train, {split}", len(unseen), message, way_out))
        unscored = np.flatnonzero(seen["train"] & ~seen[split])
        if len(unscored) and split == "val":
            message = f"classes have objects in train and none in val: {named(names[unscored])}"
            way_out = "move some of their images to val: their AP cannot be measured, and mAP leaves them out"
            found.append(Finding("class-unscored", "warning", "train, val", len(unscored), message, way_out))
    unused = np.flatnonzero(~seen["train"] & ~evaluated)
    if len(unused):
        message = f"classes have no objects in {', '.join(splits)}: {named(names[unused])}"
        way_out = "take them out of the categories, or find out where their annotations went"
        found.append(Finding("class-unused", "warning", "train", len(unused), message, way_out))
    return found


def named(names: Sequence[str] | np.ndarray, limit: int = 8) -> str:
    """The first few."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
