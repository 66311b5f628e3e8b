"""From a detector to a checked file: written under another name, run, compared with PyTorch, then given its name."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from yolo_lite.deploy import formats
from yolo_lite.deploy.loading import open_runtime
from yolo_lite.deploy.model_info import SIZE_DIVISOR, ModelInfo
from yolo_lite.deploy.runtimes import TorchRuntime
from yolo_lite.deploy.verification import TOLERANCES, Difference, compare, probe_images, probe_shapes
from yolo_lite.models.yolo import YOLO
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_new

log = logging.getLogger(__name__)

Format = Literal["onnx", "openvino", "torchscript", "torch_export", "safetensors"]

FORMATS: tuple[str, ...] = get_args(Format)
FAR = 100  # times the usual difference: another model
SUFFIXES: dict[str, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torchscript": ".torchscript",
    "torch_export": ".pt2",
    "safetensors": ".safetensors",
}
WRITERS: dict[str, Callable[[YOLO, ModelInfo, Path], None]] = {
    "onnx": formats.write_onnx,
    "openvino": formats.write_openvino,
    "torchscript": formats.write_torchscript,
    "torch_export": formats.write_torch_export,
    "safetensors": formats.write_safetensors,
}


@dataclass(frozen=True)
class Exported:
    """A file that was written and found to be right.

    Attributes:
        path: where it is; of OpenVINO the .xml, the .bin lies beside it.
        size: bytes of all its files.
        differences: from PyTorch, for each shape of input that was tried.
    """

    path: Path
    size: int
    differences: list[Difference]


def export_model(model: YOLO, info: ModelInfo, kind: Format, path: Path, overwrite: bool = False) -> Exported:
    """Write a detector and check what was written.

    Args:
        model: with trained weights.
        info: what to write: `output`, `precision`, `batch`, `input_size`, `suppression` as the file is to have them.
        kind: the format.
        path: where to; its folder must be there.
        overwrite: take the place of a file that is there.

    Raises:
        UserError: there is a file of that name, something does not go together, a package is missing, or what was
            written is not what was trained.
    """
    check_request(info, kind)
    check_path(path, kind, overwrite)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.resolve().parent) as folder:
        written = Path(folder) / path.name
        with writing(path):
            WRITERS[kind](model, info, written)
        runtime, reference = open_runtime(written, "cpu"), TorchRuntime(model, info)
        differences = [compare(reference, runtime, probe_images(shape)) for shape in probe_shapes(runtime)]
        del runtime  # Windows renames no file that is open
        check_differences(differences, info, kind)
        size = give_name(Path(folder), path)
    return Exported(path, size, differences)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises:
    UserError: the system cannot write what becomes this file.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def give_name(folder: Path, path: Path) -> int:
    """Move a finished file, and what belongs to it, to where it is looked for; returns the bytes of all of it.

    Raises:
        UserError: it cannot be moved there.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.suffix == path.suffix)  # OpenVINO's .xml last
    size = sum(file.stat().st_size for file in files)
    try:
        for file in files:
            os.replace(file, path.with_name(file.name))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return size


def check_request(info: ModelInfo, kind: Format) -> None:
    """Raises:
    UserError: the settings do not go together.
    """
    if kind == "safetensors" and (info.output != "raw" or info.batch is not None or info.input_size is not None):
        raise UserError("safetensors holds weights and no graph: leave out --output, --batch and --input_size")
    if info.batch is not None and info.batch < 1:
        raise UserError(f"batch={info.batch}: give at least 1")
    if info.input_size is not None:
        check_input_size(info.input_size)
    if info.suppression is not None:
        limits = info.suppression
        if not (0 <= limits.score <= 1 and 0 <= limits.iou <= 1 and limits.max_detections >= 1):
            raise UserError(
                f"score={limits.score}, iou={limits.iou}, max_detections={limits.max_detections}: give score and iou "
                "from 0 to 1 and at least 1 detection"
            )


def check_input_size(size: tuple[int, int]) -> None:
    """Raises:
    UserError: the network cannot halve it five times.
    """
    if any(side < SIZE_DIVISOR or side % SIZE_DIVISOR for side in size):
        raise UserError(f"input_size={size[0]}x{size[1]}: give multiples of {SIZE_DIVISOR}")


def check_path(path: Path, kind: Format, overwrite: bool) -> None:
    """Raises:
    UserError: nothing can or should be written there.
    """
    if path.suffix != SUFFIXES[kind]:
        raise UserError(f"--out {path}: a file of {kind} must be called *{SUFFIXES[kind]}, or it is not known again")
    if not path.resolve().parent.is_dir():
        raise UserError(f"no folder {path.resolve().parent} to write {path} to")
    if not os.access(path.resolve().parent, os.W_OK):
        raise UserError(f"cannot write {path}: its folder is read-only (--out)")
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: give the name of a file")
    for file in (path, path.with_suffix(".bin")) if kind == "openvino" else (path,):
        check_new(file, overwrite)


def check_differences(differences: list[Difference], info: ModelInfo, kind: Format) -> None:
    """Refuse what computes something else, and say where a file differs more than usual.

    Networks that were trained for a short time let rounding grow from layer to layer, so that the line between the two
    is a hundred times what is usual.

    Raises:
        UserError: in float32, outputs are far from those of PyTorch; in any precision, they are no numbers.
    """
    for difference in differences:
        if difference.is_within(info.precision):
            continue
        boxes, scores = TOLERANCES[info.precision]
        shape = "x".join(map(str, difference.shape))
        found = (
            f"the {kind} file differs from PyTorch by {difference.boxes:.1e} of the image size in boxes (usually up to "
            f"{boxes:.0e}), by {difference.scores:.1e} in scores (usually up to {scores:.0e}) and in "
            f"{difference.unmatched} of {difference.detections} detections on an input of {shape}"
        )
        is_far = difference.boxes > FAR * boxes or difference.scores > FAR * scores
        if (info.precision == "fp32" and is_far) or not math.isfinite(difference.boxes + difference.scores):
            raise UserError(f"{found}: nothing was written; try another --format")
        log.warning("%s: compare mAP by python -m yolo_lite.benchmark before you use it", found)
        return
