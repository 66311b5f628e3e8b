"""Boxes stay on their objects: a coloured rectangle goes through the pipeline and is measured again by its colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_lite.data.augment import AugmentConfig
from yolo_lite.data.catalog import open_split
from yolo_lite.data.dataset import EvalDataset, ImageSource, TrainDataset
from yolo_lite.data.letterbox import letterbox
from yolo_lite.data.types import SampleKey
from yolo_lite.utils.errors import UserError

STILL_COLOURS = {"hsv_hue": 0.0, "hsv_saturation": 0.0, "hsv_value": 0.0}
# Channels that shine, for the first three colours of the drawn data set.
NUM_CLASSES = 3
MIN_SIDE = 12


def shine(image: np.ndarray, label: int) -> np.ndarray:
    """(H, W) share of each pixel that the class's pure colour covers: zero on every grey."""
    others = [c for c in range(3) if c != label]
    x = image.astype(np.float32)
    return np.clip(x[..., label] - x[..., others].max(axis=-1), 0, 255) / 255


def measure(cover: np.ndarray) -> np.ndarray | None:
    """The one rectangle, to a fraction of a pixel; None where there is none, or more than one."""
    count, _, stats, _ = cv2.connectedComponentsWithStats((cover > 0.3).astype(np.uint8))
    if count != 2:
        return None
    left, top, width, height = stats[1, :4]
    edges = []
    for profile in (
        cover[top + height // 3 : top + height - height // 3].mean(axis=0),
        cover[:, left + width // 3 : left + width - width // 3].mean(axis=1),
    ):
        length = profile.sum()  # a blurred edge keeps its integral
        centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / length
        edges.append((centre - length / 2, centre + length / 2))
    (x1, x2), (y1, y2) = edges
    return np.array([x1, y1, x2, y2])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    inter = sides.prod()
    return float(inter / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inter))


@pytest.mark.parametrize("image_size", [96, 160])
@pytest.mark.parametrize("mosaic_epochs", [0, 10])
def test_training_pipeline_keeps_boxes_on_their_objects(
    tiny_coco: Callable[..., Path], mosaic_epochs: int, image_size: int
) -> None:
    root = tiny_coco(num_train=9, num_classes=NUM_CLASSES, size=(96, 128))
    source = ImageSource(open_split(root, "train"), image_size, "none")
    dataset = TrainDataset(source, AugmentConfig(**STILL_COLOURS), mosaic_epochs, 0)
    compared = 0
    for epoch in range(10):
        for i in range(9):
            sample = dataset[SampleKey(epoch, i)]
            for label in range(NUM_CLASSES):
                boxes = sample.boxes_xyxy[sample.labels == label]
                found = measure(shine(sample.image, label))
                if found is None or len(boxes) != 1:
                    continue
                box = boxes[0]
                if (box[2:] - box[:2]).min() < MIN_SIDE:
                    continue
                assert iou(found, box) > 0.95, (epoch, i, label, found, box)
                compared += 1
    assert compared > 60


@pytest.mark.parametrize("mosaic_epochs", [0, 10])
def test_every_box_is_filled_with_the_colour_of_its_class(tiny_coco: Callable[..., Path], mosaic_epochs: int) -> None:
    root = tiny_coco(num_train=9, num_classes=NUM_CLASSES)
    source = ImageSource(open_split(root, "train"), 128, "none")
    dataset = TrainDataset(source, AugmentConfig(**STILL_COLOURS), mosaic_epochs, 0)
    boxes = 0
    for epoch in range(4):
        for i in range(9):
            sample = dataset[SampleKey(epoch, i)]
            for (x1, y1, x2, y2), label in zip(sample.boxes_xyxy, sample.labels, strict=True):
                cover = shine(sample.image, int(label))[int(y1 + 1) : int(y2), int(x1 + 1) : int(x2)]
                assert cover.size == 0 or cover.mean() > 0.9
                boxes += 1
    assert boxes > 36 * 0.8


@pytest.mark.parametrize("image_size", [64, 96, 128, 160])
@pytest.mark.parametrize("size", [(96, 128), (128, 96), (75, 131)])
def test_evaluation_pipeline_keeps_boxes_on_their_objects(
    tiny_coco: Callable[..., Path], image_size: int, size: tuple[int, int]
) -> None:
    root = tiny_coco(num_val=6, num_classes=NUM_CLASSES, size=size)
    dataset = EvalDataset(ImageSource(open_split(root, "val"), image_size, "none"))
    for i in range(6):
        sample = dataset[i]
        assert sample.image.shape == (image_size, image_size, 3)
        found = measure(shine(sample.image, int(sample.labels[0])))
        assert found is not None
        assert iou(found, sample.boxes_xyxy[0]) > 0.95


@pytest.mark.parametrize("image_size", [64, 96, 640])
@pytest.mark.parametrize("size", [(96, 128), (128, 96), (75, 131), (64, 64), (20, 333)])
def test_letterbox_is_undone_by_its_inverse(
    tiny_coco: Callable[..., Path], image_size: int, size: tuple[int, int]
) -> None:
    root = tiny_coco(num_train=1, num_val=2, size=size)
    index = open_split(root, "val")
    dataset = EvalDataset(ImageSource(index, image_size, "none"))
    for i in range(2):
        sample = dataset[i]
        placed = sample.letterbox
        scale, pad = np.array([placed.scale_x, placed.scale_y] * 2), np.array([placed.pad_x, placed.pad_y] * 2)
        x, y, w, h = index.boxes_xywh[index.rows(i)][0]
        np.testing.assert_allclose((sample.boxes_xyxy[0] - pad) / scale, [x, y, x + w, y + h], atol=1e-3)
        assert sample.original_size == size
        # The corners of the original land on the corners of the drawn part.
        assert placed.scale_x * size[1] + 2 * placed.pad_x == pytest.approx(image_size, abs=1.01)
        assert placed.scale_y * size[0] + 2 * placed.pad_y == pytest.approx(image_size, abs=1.01)


def test_letterbox_pads_evenly_with_grey() -> None:
    image = np.full((40, 64, 3), 7, dtype=np.uint8)
    canvas, placed = letterbox(image, 64, (80, 128))
    assert tuple(placed) == (0.5, 0.5, 0, 12)
    assert (canvas[12:52] == 7).all()
    assert (canvas[:12] == 114).all()
    assert (canvas[52:] == 114).all()


@pytest.mark.parametrize(
    "options",
    [{"mosaic": 1.5}, {"mixup": -0.1}, {"flip": 2}, {"scale": 1.0}, {"translate": -0.1}, {"close_mosaic": -1}],
)
def test_impossible_strengths_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        AugmentConfig(**options)  # type: ignore[arg-type]
