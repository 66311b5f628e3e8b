"""Map-style data sets over an index: augmented for training, letterboxed for evaluation."""

from __future__ import annotations

import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from yolo_lite.data.augment import AugmentConfig, Augmenter
from yolo_lite.data.cache import DiskCache, ImageCache, memory_cache, memory_room, pixel_offsets
from yolo_lite.data.geometry import Drawn
from yolo_lite.data.images import ImageFiles, decode_file, resize_image, resized_shape
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.letterbox import letterbox
from yolo_lite.data.types import Letterbox, Sample, SampleKey
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.progress import LongJob

Cache = Literal["auto", "ram", "disk", "none"]
STRIDE = 32


class ImageSource:
    """Images of an index, decoded and resized so that the longer side is `image_size`.

    Args:
        index: the split.
        image_size: pixels.
        cache: `ram` and `disk` keep the decoded images, `none` does not, `auto` does in memory if they fit easily.
        cache_dir: folder of `disk`.
        recent: without a cache, each process keeps so many of the images that it decoded last.
        files: where the image files come from; None: from their folder. Streamed files are not cached.
        processes: that train on this machine, each with a cache in memory of its own.

    Raises:
        UserError: the cache does not fit, or is not to be had.
    """

    def __init__(
        self,
        index: DetectionIndex,
        image_size: int,
        cache: Cache,
        cache_dir: Path | None = None,
        recent: int = 0,
        files: ImageFiles | None = None,
        processes: int = 1,
    ) -> None:
        self.index = index
        self.files = files or ImageFiles(index)
        self.image_size = image_size
        self.shapes = np.array([resized_shape(h, w, image_size) for h, w in index.sizes.tolist()], dtype=np.int64)
        self._cache = self._make_cache(cache, cache_dir, processes)
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        self._capacity = recent if self._cache is None else 0

    def _make_cache(self, cache: Cache, cache_dir: Path | None, processes: int) -> ImageCache | None:
        if cache == "none":
            return None
        if not self.files.can_be_cached:
            if cache == "auto":
                return None
            raise UserError(f"data.cache={cache}: streamed images are not cached; use auto or none")
        if cache == "disk":
            assert cache_dir is not None
            return DiskCache(cache_dir, self.index, self.image_size, self.shapes)
        need, room = int(pixel_offsets(self.shapes)[-1]), memory_room(processes)
        if need <= room:
            return memory_cache(self.shapes)
        if cache == "ram":
            raise UserError(
                f"the image cache needs {need / 2**30:.1f} GiB of shared memory and {room / 2**30:.1f} GiB "
                f"are to be had for each of {processes} processes here; use --data.cache disk or none, or a smaller "
                "--data.image_size"
            )
        return None

    @property
    def is_cached(self) -> bool:
        """Every image is decoded once."""
        return self._cache is not None

    def image(self, i: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB, not to be written to."""
        cached = self._cache.get(i) if self._cache is not None else self._recent.get(i)
        if cached is not None:
            return cached
        height, width = self.shapes[i].tolist()
        image = resize_image(decode_file(self.files.read(i), self.files.name(i), self.image_size), height, width)
        if self._cache is not None:
            self._cache.put(i, image)
        elif self._capacity:
            self._recent[i] = image
            if len(self._recent) > self._capacity:
                self._recent.popitem(last=False)
        return image

    def fill(self) -> None:
        """Have every image in the cache; nothing without one. What an earlier run left is taken for good until read."""
        if self._cache is None:
            return
        missing = [i for i in range(len(self.index)) if not self._cache.has(i)]
        count = len(missing)
        with LongJob(f"caching {count} images", count) as job, ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(self._touch, missing), start=1):
                job.update(done)

    def _touch(self, i: int) -> None:
        self.image(i)

    def load(self, i: int) -> Drawn:
        """Image, boxes (N, 4) xyxy in its pixels, labels (N,)."""
        image = self.image(i)
        boxes, labels = self.index.training_boxes(i)
        height, width = self.index.sizes[i]
        ratio = np.array([image.shape[1] / width, image.shape[0] / height] * 2, dtype=np.float32)
        return Drawn(image, boxes * ratio, labels)


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
        epoch, i, size, partners = key
        self.source.files.start(epoch, i)
        rng = np.random.default_rng([self.seed, epoch, i])
        use_mosaic = epoch < self.mosaic_epochs
        image, boxes, labels = self.augmenter(i, rng, use_mosaic, size, partners)
        height, width = self.source.index.sizes[i].tolist()
        image_id = int(self.source.index.image_ids[i])
        return Sample(image, boxes, labels, image_id, (height, width), Letterbox(1.0, 1.0, 0.0, 0.0))


class EvalDataset(Dataset[Sample]):
    """Letterboxed samples, in the order of the index.

    Args:
        source: the images.
        is_rectangular: pad to the next multiple of the stride only, not to a square.
    """

    def __init__(self, source: ImageSource, is_rectangular: bool = False) -> None:
        self.source = source
        if is_rectangular:
            self.shapes = -(-source.shapes // STRIDE) * STRIDE
        else:
            self.shapes = np.full_like(source.shapes, source.image_size)

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitem__(self, i: int) -> Sample:
        index = self.source.index
        height, width = index.sizes[i].tolist()
        image, boxes, labels = self.source.load(i)
        image, placed = letterbox(image, self.shapes[i], (height, width))
        offset = np.array([placed.pad_x, placed.pad_y] * 2, dtype=np.float32)
        return Sample(image, boxes + offset, labels, int(index.image_ids[i]), (height, width), placed)
