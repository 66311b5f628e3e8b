"""What runs a model: PyTorch, ONNX Runtime, OpenVINO, TorchScript, torch.export; one interface for all.

Notation: B images, A anchors, C classes. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolo_lite.deploy.checksums import SUM_KEY, check_sum
from yolo_lite.deploy.model_info import KEY, ModelInfo, check_shapes
from yolo_lite.deploy.program_files import check_program
from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import YOLO
from yolo_lite.ops.postprocess import Candidates, Detections, find_candidates, select_detections
from yolo_lite.utils.errors import MissingPackageError, UserError
from yolo_lite.utils.files import check_readable
from yolo_lite.utils.signals import keeping_signal_stack


class Runtime(ABC):
    """A model that is ready to run.

    Attributes:
        info: what it takes and gives.
        device: where it computes.
    """

    info: ModelInfo
    device: str = "cpu"

    @abstractmethod
    def compute(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) uint8 RGB -> the outputs that `info.output` names. B and H x W are as `info` says."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """As `compute`, for any number of images: a model for a fixed number is run several times, the last time with
        blank images added."""
        size = self.info.batch
        if size is None or size == len(images):
            return self.compute(images)
        parts = []
        for chunk in images.split(size):
            missing = size - len(chunk)
            padded = torch.cat([chunk, chunk.new_zeros(missing, *chunk.shape[1:])]) if missing else chunk
            parts.append([output[: len(chunk)] for output in self.compute(padded)])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def detect(
        self,
        images: Tensor,
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
        multi_label: bool = False,
    ) -> list[Detections]:
        """Detections per image, on the CPU, boxes in input pixels. Arguments as in `select_detections`."""
        return self.select(self(images), score_threshold, iou_threshold, max_detections, multi_label)

    def select(
        self,
        outputs: list[Tensor],
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
        multi_label: bool = False,
    ) -> list[Detections]:
        """As `detect`, from what the model gave."""
        limits = (score_threshold, iou_threshold, max_detections, multi_label)
        return [on_cpu(select_detections(c.boxes_xyxy, c.scores, *limits)) for c in self.candidates(outputs, limits[0])]

    def candidates(self, outputs: list[Tensor], score_threshold: float) -> list[Candidates]:
        """What suppression begins with."""
        if self.info.output == "raw":
            return find_candidates(outputs, self.info.strides, self.info.reg_max, score_threshold)
        if self.info.output == "decoded":
            boxes, scores = outputs
            keep = scores.amax(dim=2) > score_threshold  # (B, A)
            return [Candidates(boxes[i][keep[i]], scores[i][keep[i]]) for i in range(len(boxes))]
        found = []
        for boxes, scores, labels in zip(*outputs, strict=True):
            keep = scores > score_threshold
            one_hot = boxes.new_zeros(int(keep.sum()), len(self.info.class_names))
            found.append(
                Candidates(boxes[keep], one_hot.scatter_(1, labels[keep][:, None].long(), scores[keep][:, None]))
            )
        return found


def on_cpu(detections: Detections) -> Detections:
    """The same on the CPU."""
    return Detections(*(x.cpu() for x in (detections.boxes_xyxy, detections.scores, detections.labels)))


class TorchRuntime(Runtime):
    """A detector as PyTorch runs it, BatchNorm folded.

    Args:
        model: with trained weights.
        info: its classes and size.
        device: of the computation.
    """

    def __init__(self, model: YOLO, info: ModelInfo, device: str = "cpu") -> None:
        # 1.3 times as fast on a CPU in float32, see benchmarks/README.md; images come in that order already.
        self.model = fuse_model(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.info = replace(info, output="raw", precision="fp32", batch=None, input_size=None, suppression=None)
        self.device = device

    @torch.inference_mode()
    def compute(self, images: Tensor) -> list[Tensor]:
        ordered = images.to(self.device).contiguous(memory_format=torch.channels_last)
        return self.model(ordered.float() / 255)


class ScriptRuntime(Runtime):
    """A TorchScript file, without the code that made it."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        files = {KEY: ""}
        try:
            with quiet():
                self.module = torch.jit.load(str(path), map_location=device, _extra_files=files)
        except RuntimeError as error:
            raise unreadable(path, "TorchScript file", error) from None
        self.info = ModelInfo.from_json(as_text(files[KEY]), str(path))
        self.device = device

    @torch.inference_mode()
    def compute(self, images: Tensor) -> list[Tensor]:
        return list(self.module(images.to(self.device).float() / 255))


class ExportedRuntime(Runtime):
    """A program of torch.export."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        import yolo_lite.deploy.graph  # noqa: F401 (registers the operation that graphs with suppression hold)

        files = {KEY: ""}
        check_program(path)
        try:
            with quiet():
                program = torch.export.load(str(path), extra_files=files)
        except Exception as error:  # of whatever type
            raise unreadable(path, "torch.export program", error) from None
        self.info = ModelInfo.from_json(as_text(files[KEY]), str(path))
        self.module = program.module().to(device)
        self.device = device

    @torch.inference_mode()
    def compute(self, images: Tensor) -> list[Tensor]:
        return list(self.module(images.to(self.device).float() / 255))


class OnnxRuntime(Runtime):
    """An ONNX file, run by ONNX Runtime.

    Args:
        path: the file.
        device: cpu, cuda or cuda:N.
        threads: of the CPU; None: all of them.

    Raises:
        UserError: the file or the device cannot be used.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        onnxruntime = needed("onnxruntime", path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Its threads look out for the next call for a while, on cores that others need: what is done with the outputs,
        # or the next model in a comparison, which took 1.7 x as long on two cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        kind, _, number = device.partition(":")
        wanted = "CUDAExecutionProvider" if kind == "cuda" else "CPUExecutionProvider"
        if wanted not in onnxruntime.get_available_providers():
            raise UserError(f"--device {device}: this onnxruntime cannot use it: pip install onnxruntime-gpu")
        provider = (wanted, {"device_id": int(number or 0)}) if kind == "cuda" else wanted
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # of whatever type
            raise unreadable(path, "ONNX file", error) from None
        if self.session.get_providers()[0] != wanted:  # it goes on with the CPU, and says so in its log alone
            raise UserError(
                f"--device {device}: onnxruntime-gpu cannot use it, perhaps for want of CUDA or cuDNN; use cpu"
            )
        metadata = self.session.get_modelmeta().custom_metadata_map
        check_sum(path, metadata.get(SUM_KEY))
        self.info = ModelInfo.from_json(metadata.get(KEY), str(path))
        images, outputs = self.session.get_inputs()[0], self.session.get_outputs()
        check_shapes(self.info, path, as_sides(images.shape), [as_sides(output.shape) for output in outputs])
        self.device = device
        self._input = images.name

    def compute(self, images: Tensor) -> list[Tensor]:
        outputs = self.session.run(None, {self._input: as_floats(images)})
        return [torch.from_numpy(np.asarray(output)) for output in outputs]


class OpenVinoRuntime(Runtime):
    """A model in OpenVINO's format, an .xml beside its .bin, on the CPU.

    Args:
        path: the .xml.
        threads: of the CPU; None: all of them.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        openvino = needed("openvino", path)
        check_xml(path)
        core = openvino.Core()
        try:
            model = core.read_model(path)
            content, own = (
                model.get_rt_info([key]).astype(str) if model.has_rt_info([key]) else None for key in (KEY, SUM_KEY)
            )
            check_sum(path, own)
            self.info = ModelInfo.from_json(content, str(path))
            images, *outputs = (
                [side.get_length() if side.is_static else None for side in value.partial_shape]
                for value in (*model.inputs, *model.outputs)
            )
            check_shapes(self.info, path, images, outputs)
            # On its own choice it would compute in bf16 where the CPU can: other numbers than everywhere else.
            options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
            if threads is not None:
                options["INFERENCE_NUM_THREADS"] = str(threads)
            with keeping_signal_stack():
                self.model = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise unreadable(path, "OpenVINO model", error) from None

    def compute(self, images: Tensor) -> list[Tensor]:
        results = self.model([as_floats(images)])
        return [torch.from_numpy(np.array(results[i])) for i in range(len(self.model.outputs))]


def check_xml(path: Path) -> None:
    """That OpenVINO takes the file for its own: on others it tries every format that it knows, and complains of each.

    Raises:
        UserError: it is no .xml of OpenVINO, or has no .bin.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(200).lstrip()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not start.startswith((b"<?xml", b"<net")):
        raise UserError(f"{path} is not a readable OpenVINO model: it does not begin as XML")
    if not path.with_suffix(".bin").is_file():
        raise UserError(f"no file {path.with_suffix('.bin')}: the weights of {path.name} lie there")
    check_readable(path.with_suffix(".bin"))


def as_floats(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) uint8 as float32 in 0..1, row by row."""
    return np.divide(images.numpy(), np.float32(255), dtype=np.float32, order="C")


def as_sides(shape: list[Any]) -> list[int | None]:
    """A shape of ONNX Runtime, in which open sides have names."""
    return [side if isinstance(side, int) else None for side in shape]


def as_text(content: str | bytes) -> str:
    """What torch reads from a file's extra parts, of which it makes bytes or text by version."""
    return content.decode() if isinstance(content, bytes) else content


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    """The error of a file that is none of its kind."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("Exception from ")]  # OpenVINO's
    reason = lines[0] if lines else type(error).__name__
    return UserError(f"{path} is not a readable {kind}: {reason}")


def needed(package: str, what: Any) -> Any:
    """A package that only some formats need.

    Raises:
        MissingPackageError: it is not installed.
    """
    # OpenVINO and NNCF tell Intel that and how they are used, without asking; without this package they do not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != name:
            raise
        raise MissingPackageError(f"{what} needs {name}: pip install -r requirements-export.txt") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of their own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
