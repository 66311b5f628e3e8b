"""Map-style data sets over an index: augmented for training, letterboxed for evaluation."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from yolo_lite.data.images import SharedImageCache, read_image, resize_image, resized_shape
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.transforms import AugmentConfig, Augmenter, Drawn, letterbox
from yolo_lite.data.types import Letterbox, Sample, SampleKey
from yolo_lite.utils.errors import UserError

Cache = Literal["auto", "ram", "none"]


class ImageSource:
    """Images of an index, decoded and resized so that the longer side is `image_size`.

    Args:
        index: the split.
        image_size: pixels.
        cache: `ram` keeps the decoded images, `none` does not, `auto` does if they fit easily.
    """

    def __init__(self, index: DetectionIndex, image_size: int, cache: Cache) -> None:
        self.index = index
        self.image_size = image_size
        self._cache: SharedImageCache | None = None
        if cache != "none":
            shapes = np.array([resized_shape(h, w, image_size) for h, w in index.sizes.tolist()], dtype=np.int64)
            need, room = SharedImageCache.size_in_bytes(shapes), SharedImageCache.room_in_bytes()
            if need <= room:
                self._cache = SharedImageCache(shapes)
            elif cache == "ram":
                raise UserError(
                    f"the image cache needs {need / 2**30:.1f} GiB of shared memory and {room / 2**30:.1f} GiB "
                    "are to be had; use --data.cache none or a smaller --data.image_size"
                )

    def image(self, i: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB, not to be written to."""
        cached = self._cache.get(i) if self._cache is not None else None
        if cached is not None:
            return cached
        height, width = self.index.sizes[i].tolist()
        image = resize_image(read_image(self.index.path(i)), *resized_shape(height, width, self.image_size))
        if self._cache is not None:
            self._cache.put(i, image)
        return image

    def load(self, i: int) -> Drawn:
        """Image, boxes (N, 4) xyxy in its pixels, labels (N,)."""
        image = self.image(i)
        boxes, labels = self.index.training_boxes(i)
        height, width = self.index.sizes[i]
        ratio = np.array([image.shape[1] / width, image.shape[0] / height] * 2, dtype=np.float32)
        return image, boxes * ratio, labels


class TrainDataset(Dataset[Sample]):
    """Augmented samples; a key holds epoch and index, and with the seed it decides everything.

    Args:
        source: the images.
        augment: strengths.
        mosaic_epochs: mosaic and mixup are used in epochs below this.
        seed: of the augmentation.
    """

    def __init__(self, source: ImageSource, augment: AugmentConfig, mosaic_epochs: int, seed: int) -> None:
        self.source = source
        self.mosaic_epochs = mosaic_epochs
        self.seed = seed
        self.augmenter = Augmenter(augment, source.image_size, source.load, len(source.index))

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, i = key
        rng = np.random.default_rng([self.seed, epoch, i])
        image, boxes, labels = self.augmenter(i, rng, use_mosaic=epoch < self.mosaic_epochs)
        height, width = self.source.index.sizes[i].tolist()
        image_id = int(self.source.index.image_ids[i])
        return Sample(image, boxes, labels, image_id, (height, width), Letterbox(1.0, 1.0, 0.0, 0.0))


class EvalDataset(Dataset[Sample]):
    """Letterboxed samples, in the order of the index."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitem__(self, i: int) -> Sample:
        index = self.source.index
        height, width = index.sizes[i].tolist()
        image, boxes, labels = self.source.load(i)
        image, placed = letterbox(image, self.source.image_size, (height, width))
        offset = np.array([placed.pad_x, placed.pad_y] * 2, dtype=np.float32)
        return Sample(image, boxes + offset, labels, int(index.image_ids[i]), (height, width), placed)
