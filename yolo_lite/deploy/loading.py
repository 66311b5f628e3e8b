"""From a file to a model that runs: checkpoints of train.py, and whatever `python -m yolo_lite.export` writes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from yolo_lite.deploy.checksums import SUM_KEY, check_sum
from yolo_lite.deploy.model_info import KEY, ModelInfo, check_own_size
from yolo_lite.deploy.runtimes import (
    ExportedRuntime,
    OnnxRuntime,
    OpenVinoRuntime,
    Runtime,
    ScriptRuntime,
    TorchRuntime,
    needed,
    unreadable,
)
from yolo_lite.models.yolo import YOLO, ModelSpec, build_model
from yolo_lite.utils.checkpoints import MODEL_PREFIX, check_sums, read_checkpoint
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_readable

READABLE = (".ckpt", ".safetensors", ".onnx", ".xml (OpenVINO)", ".torchscript", ".pt2")
# Of them, those whose weights nobody can take out again.
EXPORTED = (".onnx", ".xml", ".torchscript", ".pt2")
MOST_THREADS = 1024
SHOWN = 3  # names of files in a message


def load_weights(path: Path) -> tuple[YOLO, ModelInfo]:
    """The detector in a checkpoint or in a .safetensors file, on the CPU. Nothing in the file can run code.

    Raises:
        UserError: it is missing, damaged, or not ours.
    """
    if path.suffix.lower() in EXPORTED and path.is_file():
        raise UserError(f"{path} is an exported model: give the .ckpt or .safetensors file that it was made from")
    check_readable(path)
    # The weights that are overwritten are drawn first: nobody else's random numbers are to change by it.
    with torch.random.fork_rng(devices=[]):
        if path.suffix.lower() == ".safetensors":
            return read_safetensors(path)
        found = from_checkpoint(read_checkpoint(path), path)
    if zipfile.is_zipfile(path):  # all that torch writes since 1.6
        check_sums(path)
    return found


def from_checkpoint(checkpoint: dict[str, Any], path: Path) -> tuple[YOLO, ModelInfo]:
    """The detector with a checkpoint's averaged weights.

    Raises:
        UserError: its settings cannot be read or used, or its weights do not fit them.
    """
    try:
        settings = checkpoint["hyper_parameters"]
        names, image_size = list(checkpoint["yolo_lite"]["class_names"]), int(settings["image_size"])
        parts = {field.name: settings.get(field.name) for field in fields(ModelSpec)}
        model = build_model(settings["variant"], len(names), **parts)
        weights = checkpoint["state_dict"].items()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its settings cannot be read ({error!r})") from None
    check_own_size(image_size, path)
    state = {name.removeprefix(MODEL_PREFIX): x for name, x in weights if name.startswith(MODEL_PREFIX)}
    load_state(model, state, path)
    return model, ModelInfo.of(model, settings["variant"], names, image_size)


def read_safetensors(path: Path) -> tuple[YOLO, ModelInfo]:
    """The detector in a file that `export --format safetensors` wrote.

    Raises:
        UserError: it is missing, damaged, or not ours.
    """
    check_file(path)
    safetensors = needed("safetensors", path)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except Exception as error:  # of a type of its own
        raise unreadable(path, "safetensors file", error) from None
    check_sum(path, metadata.get(SUM_KEY))
    info = ModelInfo.from_json(metadata.get(KEY), str(path))
    try:
        model = YOLO(ModelSpec(**json.loads(metadata["spec"])), len(info.class_names))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: its description of the model cannot be read ({error})") from None
    load_state(model, {name: x.float() if x.is_floating_point() else x for name, x in state.items()}, path)
    return model, info


def load_state(model: YOLO, state: dict[str, torch.Tensor], path: Path) -> None:
    """Raises:
    UserError: the weights are not those of this model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the weights in {path} do not fit its own settings: {reason:.200}") from None


def open_runtime(path: Path, device: str = "auto", threads: int | None = None) -> Runtime:
    """Whatever runs the model in a file.

    Args:
        path: .ckpt, .safetensors, .onnx, .xml, .torchscript, .pt2, or a folder with one .xml.
        device: cpu, cuda, cuda:1; auto takes a GPU for PyTorch where there is one.
        threads: of a CPU, for ONNX Runtime and OpenVINO; PyTorch has `torch.set_num_threads`.

    Raises:
        UserError: the file or the device cannot be used.
    """
    place = pick_device(str(device))
    check_threads(threads)
    path = model_file(path)
    openers: dict[str, Callable[[], Runtime]] = {
        ".ckpt": lambda: TorchRuntime(*load_weights(path), device=place),
        ".safetensors": lambda: TorchRuntime(*load_weights(path), device=place),
        ".onnx": lambda: OnnxRuntime(path, "cpu" if device == "auto" else place, threads),
        ".xml": lambda: OpenVinoRuntime(path, threads),
        ".torchscript": lambda: ScriptRuntime(path, place),
        ".pt2": lambda: ExportedRuntime(path, place),
    }
    if path.suffix.lower() == ".xml" and str(device) != "auto" and place != "cpu":
        raise UserError(
            f"device {device}: models of OpenVINO run on the CPU here; leave it out, or use the .onnx format"
        )
    opener = openers.get(path.suffix.lower())
    if opener is None:
        if path.is_dir():
            check_file(path)
        raise UserError(f"{path}: no model that can be run; these can: {', '.join(READABLE)}")
    if path.suffix.lower() != ".ckpt":  # its reader says more
        check_file(path)
    runtime = opener()
    if isinstance(runtime, ScriptRuntime | ExportedRuntime):
        check_sums(path)
    return runtime


def model_file(path: Path) -> Path:
    """The file itself; of a folder of OpenVINO's, its .xml."""
    found = sorted(path.glob("*.xml")) if path.is_dir() else []
    return found[0] if len(found) == 1 else path


def check_file(path: Path) -> None:
    """Raises:
    UserError: it is not there, a folder, or may not be read.
    """
    if path.is_dir():
        names = [file.name for file in sorted(path.glob("*.xml"))]
        listed = f" of {len(names)} models, {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        raise UserError(f"{path} is a folder{listed if names else ''}: give {'one of them' if names else 'a file'}")
    if not path.is_file():
        raise UserError(f"no file {path}")
    check_readable(path)


def check_threads(threads: int | None) -> None:
    """Raises:
    UserError: it is no number of threads that can be had; PyTorch would crash for want of memory.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"threads={threads}: give 1 to {MOST_THREADS}")


def pick_device(device: str) -> str:
    """The device of a name.

    Raises:
        UserError: there is none of that name here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return device
    if kind != "cuda" or (number and not number.isdigit()):
        raise UserError(f"device {device!r}: give auto, cpu, cuda or cuda:N")
    if int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device}: there are {torch.cuda.device_count()} GPUs here; use cpu")
    return device
