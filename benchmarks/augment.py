"""The fused mosaic against albumentations' Mosaic and Affine, on the images of a data set, one core, in turn.

python benchmarks/augment.py DIR --image_size 320
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import albumentations as A
import cv2
import numpy as np

from yolo_lite.data.augment import AugmentConfig, Augmenter, Picker
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.dataset import ImageSource


def milliseconds(sample: Callable[[int], object], count: int) -> float:
    """Mean time of a sample."""
    started = time.perf_counter()
    for i in range(count):
        sample(i)
    return (time.perf_counter() - started) / count * 1000


def main() -> None:
    """Print one JSON line: medians over the rounds, milliseconds a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--image_size", type=int, default=320)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    size, config = args.image_size, AugmentConfig()
    index = DetectionDataModule(args.data, image_size=size).index("train")
    source = ImageSource(index, size, "ram")
    loaded = [source.load(i) for i in range(len(index))]
    augmenter = Augmenter(config, size, source.load, len(index))
    reference = A.Compose(
        [
            A.Mosaic(grid_yx=(2, 2), target_size=(size, size), cell_shape=(size, size), fit_mode="contain", p=1),
            A.Affine(
                scale=(1 - config.scale, 1 + config.scale),
                translate_percent=(-config.translate, config.translate),
                p=1,
            ),
        ],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"]),
        seed=0,
    )
    rng = np.random.default_rng(0)

    def ours(i: int) -> object:
        return augmenter.compose(i % len(index), rng, True, size, Picker(rng, range(len(index))))

    def theirs(i: int) -> object:
        image, boxes, labels = loaded[i % len(index)]
        partners = [loaded[int(k)] for k in rng.integers(len(index), size=3)]
        metadata = [{"image": p[0], "bboxes": p[1], "labels": p[2]} for p in partners]
        return reference(image=image, bboxes=boxes, labels=labels, mosaic_metadata=metadata)

    times = [(milliseconds(ours, args.count), milliseconds(theirs, args.count)) for _ in range(args.rounds)]
    fused, chained = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        json.dumps({"fused_ms": round(fused, 3), "chained_ms": round(chained, 3), "ratio": round(chained / fused, 2)})
    )


if __name__ == "__main__":
    main()
