"""The check of all images of a split before training: millions of files, a few arrays. Notation: N images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.data.images import ImageProblem, inspect_image
from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.progress import LongJob

log = logging.getLogger(__name__)

NAMED_PROBLEMS = 5
NUM_THREADS = 8  # the files may lie on a network disk
# Images handed to the threads at once: as many futures, of 1 kB each, are alive.
BLOCK = 4096


@dataclass
class BadImages:
    """The unusable images of a split.

    Attributes:
        listed: images in the annotation file.
        count: how many of them cannot be used.
        named: the first few, with reasons.
    """

    listed: int
    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, problem: ImageProblem) -> None:
        """One more."""
        self.count += 1
        if len(self.named) < NAMED_PROBLEMS:
            self.named.append(str(problem))

    def report(self, source: Path, max_bad_images: float, kept: str = "") -> None:
        """One warning, if there are any.

        Args:
            source: the annotation file.
            max_bad_images: share that is tolerated.
            kept: said of a result that was kept from an earlier run.

        Raises:
            UserError: there are more.
        """
        if not self.count:
            return
        more = f" and {self.count - len(self.named)} more" if self.count > len(self.named) else ""
        message = f"{source}: {self.count} of {self.listed} images cannot be used{kept}: {', '.join(self.named)}{more}"
        if self.count > max_bad_images * self.listed or self.count == self.listed:
            raise UserError(f"{message}; mend them or raise --data.max_bad_images (now {max_bad_images:g})")
        log.warning("%s; they are left out", message)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class ImageCheck:
    """What the files are.

    Attributes:
        sizes: (N, 2) int32 height, width of the upright images, 0 of those that cannot be used.
        bad: those that cannot be used.
    """

    sizes: np.ndarray
    bad: BadImages

    @classmethod
    def collect(cls, results: Iterable[tuple[int, int] | ImageProblem], count: int) -> ImageCheck:
        """From what `inspect_image` says of each of `count` images."""
        check = cls(np.zeros((count, 2), dtype=np.int32), BadImages(count))
        for i, result in enumerate(results):
            if isinstance(result, ImageProblem):
                check.bad.add(result)
            else:
                check.sizes[i] = result
        return check

    @property
    def is_good(self) -> np.ndarray:
        """(N,) bool."""
        return self.sizes[:, 0] > 0


def check_images(index: DetectionIndex) -> ImageCheck:
    """Look at every image file."""
    return ImageCheck.collect(inspect_all(index), len(index))


def inspect_all(index: DetectionIndex) -> Iterator[tuple[int, int] | ImageProblem]:
    """`inspect_image` of each, in order, in several threads."""
    with (
        ThreadPoolExecutor(NUM_THREADS) as pool,
        LongJob(f"checking the images of {index.source.name}", len(index)) as job,
    ):
        for start in range(0, len(index), BLOCK):
            yield from pool.map(inspect_image, map(index.path, range(start, min(start + BLOCK, len(index)))))
            job.update(start)
