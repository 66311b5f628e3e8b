"""What `predict` writes: annotated images and videos, COCO JSON, CSV, YOLO txt. Image by image, never all in memory.

Boxes are xyxy in pixels of the upright image unless a format says otherwise.
"""

from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import cv2
import numpy as np

from yolo_lite.deploy.prediction import Prediction
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing, temporary_path

JPEG_SUFFIXES = (".jpg", ".jpeg")
DRAWN_SUFFIXES = (*JPEG_SUFFIXES, ".png")  # other formats become JPEG
JPEG_QUALITY = 92
LARGEST_JPEG = 65_500  # pixels a side, of libjpeg
USUAL_RATE = 25.0  # pictures per second of a video that does not tell
CODEC = "mp4v"  # the only one for .mp4 that every build of OpenCV has and that keeps up with the network
COCO_NAME, CSV_NAME, LABELS_NAME = "detections.json", "detections.csv", "labels"
CSV_COLUMNS = ("source", "frame", "width", "height", "label", "class", "score", "x1", "y1", "x2", "y2")


class OutputNames:
    """Where what belongs to a source is written: as the source lies in its folder, and never twice to one file.

    Args:
        folder: of the results.
        root: folder that the sources lie in; None: their folders are not repeated.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.folder = folder
        self.root = root
        self._taken: set[str] = set()

    def path(self, source: str, suffix: str) -> Path:
        """A new file for a source; its folder is made.

        Args:
            source: path of an image or video, or `camera N`.
            suffix: of the file; where two sources differ in theirs alone, the second keeps its own before it.

        Raises:
            UserError: the folder cannot be made.
        """
        place = self._relative(source)
        candidate, number = place.with_name(place.stem + suffix), 1
        while self._key(candidate) in self._taken:
            counted = "" if number == 1 else f"_{number}"
            candidate, number = place.with_name(f"{place.name}{counted}{suffix}"), number + 1
        self._taken.add(self._key(candidate))
        path = self.folder / candidate
        make_folder(path.parent)
        return path

    def _relative(self, source: str) -> Path:
        """A source below the root."""
        if self.root is not None:
            try:
                place = Path(os.path.relpath(source, self.root))
            except ValueError:  # on another drive
                place = Path(source)
            if not place.is_absolute() and ".." not in place.parts:
                return place
        return Path(Path(source).name.replace(" ", "_") if source.startswith("camera ") else Path(source).name)

    @staticmethod
    def _key(path: Path) -> str:
        """Equal for names that are one file where upper and lower case are the same."""
        return str(path).casefold()


def make_folder(folder: Path) -> None:
    """Raises:
    UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None


class Writer(ABC):
    """Takes predictions in their order, as a context. Files that hold several get their names when it ends well; when
    an error ends it, they are gone."""

    def __enter__(self) -> Writer:
        self.stack = ExitStack()
        return self

    @abstractmethod
    def add(self, prediction: Prediction) -> None:
        """Write what belongs to an image.

        Raises:
            UserError: it cannot be written.
        """

    def finish(self) -> None:  # noqa: B027 (most have nothing to add)
        """Write what comes after the last image."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.stack.__exit__(kind, error, trace)
            return
        with self.stack:
            self.finish()


class ImageWriter(Writer):
    """Annotated images of sources that are no videos; JPEG and PNG stay what they are, others become JPEG, or PNG where
    they are too large for it."""

    def __init__(self, names: OutputNames) -> None:
        self.names = names

    def add(self, prediction: Prediction) -> None:
        if prediction.frame is not None:
            return
        path = self.names.path(prediction.source, drawn_suffix(prediction))
        content = encode_image(prediction.draw(), path)
        with replacing(path) as file:
            file.write(content)


def drawn_suffix(prediction: Prediction) -> str:
    """Of the file that an annotated image is written to."""
    found = Path(prediction.source).suffix
    suffix = found if found.lower() in DRAWN_SUFFIXES else ".jpg"
    return ".png" if suffix.lower() in JPEG_SUFFIXES and max(prediction.size) > LARGEST_JPEG else suffix


def encode_image(image: np.ndarray, path: Path) -> bytes:
    """An (H, W, 3) uint8 RGB image in the format of a file's name.

    Raises:
        UserError: the format cannot hold it, as PNG more than 1,000,000 pixels a side.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix.lower() in JPEG_SUFFIXES else []
    try:
        is_done, content = cv2.imencode(path.suffix.lower(), image[..., ::-1], options)
    except cv2.error:
        is_done, content = False, np.zeros(0, np.uint8)
    if not is_done:
        raise UserError(f"cannot write {path}: {image.shape[1]}x{image.shape[0]} pixels are too many for its format")
    return content.tobytes()


class VideoWriter(Writer):
    """Annotated videos, .mp4 at the rate of their sources. A video gets its name when it is whole."""

    def __init__(self, names: OutputNames) -> None:
        self.names = names
        self._video: VideoFile | None = None

    def add(self, prediction: Prediction) -> None:
        if prediction.frame is None:
            self.finish()
            return
        if self._video is None or prediction.frame == 0:
            self.finish()
            path = self.names.path(prediction.source, ".mp4")
            self._video = VideoFile(path, prediction.size, prediction.rate or USUAL_RATE)
            self.stack.callback(self._video.discard)
        self._video.write(prediction.draw())

    def finish(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None
            self.stack.pop_all()


class VideoFile:
    """A video that is being written.

    Args:
        path: of the .mp4.
        size: height and width.
        rate: pictures per second.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        self.path = path
        self.temporary = temporary_path(path).with_suffix(".tmp.mp4")  # the suffix says which format
        self.size = size
        code = cv2.VideoWriter_fourcc(*CODEC)  # type: ignore[attr-defined]
        self.writer = cv2.VideoWriter(str(self.temporary), code, rate, size[::-1])
        if not self.writer.isOpened():
            self.discard()
            raise UserError(f"cannot write the video {path}: use --save csv or coco for the detections alone")

    def write(self, image: np.ndarray) -> None:
        """One more picture, (H, W, 3) uint8 RGB."""
        if image.shape[:2] != self.size:  # some cameras change their minds
            image = cv2.resize(image, self.size[::-1])
        self.writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file and give it its name."""
        self.writer.release()
        try:
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from None

    def discard(self) -> None:
        """As if there had been none."""
        self.writer.release()
        self.temporary.unlink(missing_ok=True)


class CocoWriter(Writer):
    """One JSON file as `pycocotools.coco.COCO` reads it: images numbered from 1 in their order, annotations with
    `score`, categories numbered from 1 in the order of the classes; boxes are left, top, width, height.

    A picture of a video has its number under `frame`.
    """

    def __init__(self, path: Path, class_names: tuple[str, ...]) -> None:
        self.path = path
        self.class_names = class_names
        self._images: list[str] = []  # the one part that is kept: a line of text for each
        self._count = 0

    def __enter__(self) -> CocoWriter:
        super().__enter__()
        self._file = open_file(self.path, self.stack)
        self._file.write(b'{"annotations": [')
        return self

    def add(self, prediction: Prediction) -> None:
        height, width = prediction.size
        image = {"id": len(self._images) + 1, "file_name": prediction.source, "height": height, "width": width}
        if prediction.frame is not None:
            image["frame"] = prediction.frame
        self._images.append(json.dumps(image))
        corners = prediction.boxes_xyxy.astype(np.float64)
        boxes_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        rows = zip(boxes_xywh, prediction.scores.tolist(), prediction.labels.tolist(), strict=True)
        for box, score, label in rows:
            annotation = {"id": self._count + 1, "image_id": image["id"], "category_id": label + 1}
            annotation |= {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": score}
            self._file.write((",\n" if self._count else "\n").encode() + json.dumps(annotation).encode())
            self._count += 1

    def finish(self) -> None:
        categories = [json.dumps({"id": i, "name": name}) for i, name in enumerate(self.class_names, start=1)]
        for name, lines in (("images", self._images), ("categories", categories)):
            self._file.write(f'\n],\n"{name}": [\n'.encode() + ",\n".join(lines).encode())
        self._file.write(b"\n]}\n")


class CsvWriter(Writer):
    """One CSV file, a row for each detection; `frame` is empty for images."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> CsvWriter:
        super().__enter__()
        file = open_file(self.path, self.stack)
        # Names of files may be bytes that are no text.
        self._text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        self.stack.callback(self._text.detach)
        self._rows = csv.writer(self._text)
        self._rows.writerow(CSV_COLUMNS)
        return self

    def add(self, prediction: Prediction) -> None:
        height, width = prediction.size
        frame = "" if prediction.frame is None else prediction.frame
        for box, score, label in zip(
            prediction.boxes_xyxy.tolist(), prediction.scores.tolist(), prediction.labels.tolist(), strict=True
        ):
            numbers = [f"{score:.6f}", *(f"{side:.3f}" for side in box)]
            row = [prediction.source, frame, width, height, label, prediction.class_names[label], *numbers]
            self._rows.writerow(row)


class YoloWriter(Writer):
    """A .txt for each image, empty where nothing was found: label, centre x and y, width, height as shares of the
    image, score."""

    def __init__(self, names: OutputNames) -> None:
        self.names = names

    def add(self, prediction: Prediction) -> None:
        source = prediction.source
        if prediction.frame is not None:  # a folder for each video
            source = str(Path(source) / f"{prediction.frame:06d}.txt")
        height, width = prediction.size
        corners = prediction.boxes_xyxy.astype(np.float64) / [width, height, width, height]
        shares = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
        lines = [
            f"{label} " + " ".join(f"{number:.6f}" for number in (*box, score)) + "\n"
            for label, box, score in zip(
                prediction.labels.tolist(), shares.tolist(), prediction.scores.tolist(), strict=True
            )
        ]
        with replacing(self.names.path(source, ".txt")) as file:
            file.write("".join(lines).encode())


def open_file(path: Path, stack: ExitStack) -> BinaryIO:
    """A file that gets its name when the stack is closed well.

    Raises:
        UserError: it cannot be written.
    """
    make_folder(path.parent)
    return stack.enter_context(replacing(path))
