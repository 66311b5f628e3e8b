"""A trained model to use: `load_model("best.ckpt").predict(["a.jpg", array, "folder/"])`.

Boxes are xyxy in pixels of the upright image.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch

from yolo_lite.data.types import Letterbox
from yolo_lite.deploy.loading import open_runtime
from yolo_lite.deploy.option_names import ELSEWHERE
from yolo_lite.deploy.prediction import Prediction
from yolo_lite.deploy.runtimes import Runtime
from yolo_lite.deploy.sources import Failure, Frame, is_single, open_sources
from yolo_lite.deploy.views import View, check_tiling, input_shape, locate, make_views, merge, see
from yolo_lite.ops.postprocess import MAX_DETECTIONS, PREDICT_IOU, PREDICT_SCORE, Detections
from yolo_lite.utils.errors import UserError

# Larger ones are no faster on a CPU; a GPU that wants more takes `batch_size`.
BATCH_SIZE = 8
# What is chosen when a model is loaded, not for each image.
OF_LOADING = {"imgsz": "image_size", "image_size": "image_size", "device": "device", "threads": "threads"}


@dataclass(frozen=True)
class PredictOptions:
    """How to look at images.

    Attributes:
        score: detections score higher.
        iou: of two boxes of one class that overlap more, the better stays.
        max_detections: of an image.
        batch_size: views that go through the network at once.
        rectangular: pad images to the next multiples of 32 only, not to squares: faster, and a little different.
        tile: side of overlapping tiles that large images are looked at in as well, pixels of the image; None: no tiles.
        overlap: of neighbouring tiles, as a share of `tile`; objects up to that size are whole in one of them.
        augment: look at each view four times: also mirrored, smaller, and both.
    """

    score: float = PREDICT_SCORE
    iou: float = PREDICT_IOU
    max_detections: int = MAX_DETECTIONS
    batch_size: int = BATCH_SIZE
    rectangular: bool = False
    tile: int | None = None
    overlap: float = 0.2
    augment: bool = False

    def __post_init__(self) -> None:
        for name in ("score", "iou", "overlap"):
            if not isinstance(getattr(self, name), int | float):
                raise UserError(f"{name}={getattr(self, name)!r}: give a number")
        for name in ("max_detections", "batch_size", "tile"):
            if not isinstance(getattr(self, name), int) and (name, self.tile) != ("tile", None):
                raise UserError(f"{name}={getattr(self, name)!r}: give a whole number")
        for name in ("score", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: give a number from 0 to 1")
        for name in ("max_detections", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: give at least 1")
        check_tiling(self.tile, self.overlap)

    @staticmethod
    def named(options: dict[str, Any]) -> PredictOptions:
        """Options by their names.

        Raises:
            UserError: one has no such name, or is out of range.
        """
        known = [entry.name for entry in fields(PredictOptions)]
        for name in options:
            if name in OF_LOADING:
                raise UserError(f"no option {name} here: give {OF_LOADING[name]} to load_model")
            if name not in known:
                near = [ELSEWHERE[name]] if name in ELSEWHERE else get_close_matches(name, known, 1)
                meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise UserError(f"no option {name} here: {meant}")
        return PredictOptions(**options)


@dataclass
class Looking:
    """A frame while its views are on their way.

    Attributes:
        frame: the image; of a file without its pixels, which the views have by then.
        missing: views that have not come back.
        parts: what was found in those that have, in pixels of the image.
    """

    frame: Frame
    missing: int
    parts: list[tuple[View, Detections]] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """A view as the network gets it: (H, W, 3) uint8, and how it lies there."""

    image: np.ndarray
    view: View
    placed: Letterbox
    owner: Looking


class Detector:
    """A model with everything around it.

    Args:
        runtime: what runs the model.
        image_size: pixels; None: as trained.

    Raises:
        UserError: the model takes no such size.
    """

    def __init__(self, runtime: Runtime, image_size: int | None = None) -> None:
        self.runtime = runtime
        runtime.info = runtime.info.with_size(image_size)
        self.info = runtime.info

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.info.class_names

    @property
    def image_size(self) -> int:
        """Pixels, to which the longer side of an image is resized."""
        return self.info.image_size

    def predict(self, sources: Any, **options: Any) -> list[Prediction]:
        """Detections of every image, in order.

        Args:
            sources: an image or several: paths of images, videos, folders of both, patterns; arrays (H, W, 3) uint8
                RGB or (H, W) grey; images of Pillow, which are turned as their EXIF data says; numbers of cameras.
            **options: fields of `PredictOptions`.

        Raises:
            UserError: a source cannot be read, or an option is unknown or out of range. To go on, use `stream` with
                `on_error`.
        """
        return list(self.stream(sources, **options))

    def stream(
        self, sources: Any, on_error: Callable[[UserError], None] | None = None, **options: Any
    ) -> Iterator[Prediction]:
        """As `predict`, one by one as they are ready: for videos, cameras and more images than fit the memory.

        Args:
            sources: as of `predict`.
            on_error: called with what cannot be read, which is skipped; None: it is raised.
            **options: fields of `PredictOptions`.
        """
        chosen = PredictOptions.named(options)
        self.check(chosen)
        _, frames = self.open([sources] if is_single(sources) else sources, chosen)
        return self.look_at(readable(frames, on_error), chosen)

    def check(self, options: PredictOptions) -> None:
        """Raises:
        UserError: this model cannot be used so.
        """
        limits = self.info.suppression
        if limits is not None and (options.score < limits.score or options.iou > limits.iou):
            raise UserError(
                f"this model's own suppression ends at score {limits.score} and IoU {limits.iou}: give score >= "
                f"{limits.score} and iou <= {limits.iou}, or export it with --output decoded"
            )

    def open(self, sources: Iterable[Any], options: PredictOptions) -> tuple[int | None, Iterator[Frame | Failure]]:
        """How many frames there are, if that can be told, and the frames, no larger than they are needed."""
        return open_sources(sources, None if options.tile else self.image_size)

    def look_at(self, frames: Iterable[Frame], options: PredictOptions) -> Generator[Prediction, None, None]:
        """What is found in frames, in their order. Views of one shape go through the network together."""
        waiting: deque[Looking] = deque()
        batch: list[Seen] = []
        for frame in frames:
            views = make_views(frame.size, options.tile, options.overlap, options.augment)
            looking = Looking(frame.without_pixels() if frame.is_file else frame, len(views))
            waiting.append(looking)
            for view in views:
                shape = input_shape(view, self.image_size, self.info.input_size, options.rectangular)
                batch.append(Seen(*see_frame(frame, view, shape), looking))
                if len(batch) >= options.batch_size:
                    self.run(batch, options)
                    batch = []
            if frame.is_live:
                self.run(batch, options)
                batch = []
            while waiting and not waiting[0].missing:
                yield self.finish(waiting.popleft(), options)
        self.run(batch, options)
        yield from (self.finish(looking, options) for looking in waiting)

    def run(self, batch: list[Seen], options: PredictOptions) -> None:
        """Detect in at most a batch of views, and hand what was found to the frames that they are of."""
        for _, alike in groupby(batch, key=lambda seen: seen.image.shape):
            self.run_alike(list(alike), options)

    def run_alike(self, batch: list[Seen], options: PredictOptions) -> None:
        """As `run`, for views of one shape."""
        images = torch.from_numpy(np.stack([seen.image for seen in batch])).permute(0, 3, 1, 2)
        found = self.runtime.detect(images, options.score, options.iou, options.max_detections)
        for seen, detections in zip(batch, found, strict=True):
            seen.owner.parts.append((seen.view, locate(detections, seen.view, seen.placed)))
            seen.owner.missing -= 1

    def finish(self, looking: Looking, options: PredictOptions) -> Prediction:
        """The prediction of a frame whose views are all back."""
        frame = looking.frame
        found = merge(looking.parts, frame.size, options.iou, options.max_detections)
        return Prediction(
            source=frame.source,
            size=frame.size,
            boxes_xyxy=found.boxes_xyxy.numpy(),
            scores=found.scores.numpy(),
            labels=found.labels.numpy(),
            class_names=self.class_names,
            frame=frame.number,
            rate=frame.rate,
            image=None if frame.is_file else frame.pixels,
        )


def see_frame(frame: Frame, view: View, shape: tuple[int, int]) -> tuple[np.ndarray, View, Letterbox]:
    """The network's input for a view of a frame."""
    image, placed = see(frame.pixels, view, shape, frame.scale)
    return image, view, placed


def readable(frames: Iterable[Frame | Failure], on_error: Callable[[UserError], None] | None) -> Iterator[Frame]:
    """The frames; what could not be read is told, or raised."""
    for frame in frames:
        if isinstance(frame, Frame):
            yield frame
        elif on_error is None:
            raise frame.error
        else:
            on_error(frame.error)


def load_model(
    path: str | Path, device: str = "auto", image_size: int | None = None, threads: int | None = None
) -> Detector:
    """A trained model, ready to predict. Nothing in a checkpoint can run code.

    Args:
        path: a checkpoint of train.py, or what `python -m yolo_lite.export` wrote: .ckpt, .safetensors, .onnx, .xml
            (OpenVINO), .torchscript, .pt2.
        device: auto, cpu, cuda or cuda:N.
        image_size: pixels, to which the longer side of an image is resized; None: as trained.
        threads: of the CPU, for ONNX Runtime and OpenVINO; None: all.

    Raises:
        UserError: the file cannot be used, or not so.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"load_model({path!r}): give the name of a file")
    for name, value in (("image_size", image_size), ("threads", threads)):
        if value is not None and not isinstance(value, SupportsIndex):
            raise UserError(f"{name}={value!r}: give a whole number")
    return Detector(open_runtime(Path(path), device, threads), image_size)
