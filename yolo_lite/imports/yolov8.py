"""Checkpoints of the original YOLOv8 trainer, read without its package. Where a layer is there and here:

| there | here |
|---|---|
| 0; 1, 2; 3, 4; 5, 6; 7, 8; 9 | stem; stage2 to stage5, down and block; pool |
| 12, 15 | neck.top_down, coarse to fine |
| 16, 19 and 18, 21 | neck.down and neck.bottom_up |
| 22: cv2, cv3, dfl | head.box, head.classes, head.bins |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo_lite.imports.records import Record, read_records
from yolo_lite.models.yolo import SCALES, YOLO, build_model
from yolo_lite.utils.errors import UserError

PACKAGES = ("ultralytics", "torch.nn.modules")
LAYERS = {
    0: "backbone.stem",
    **{2 * i - 3: f"backbone.stage{i}.down" for i in range(2, 6)},
    **{2 * i - 2: f"backbone.stage{i}.block" for i in range(2, 6)},
    9: "backbone.pool",
    12: "neck.top_down.1",
    15: "neck.top_down.0",
    16: "neck.down.0",
    18: "neck.bottom_up.0",
    19: "neck.down.1",
    21: "neck.bottom_up.1",
    22: "head",
}
# Parts of names, in this order, by kind of layer.
BLOCK = (
    (r"\.m\.(\d+)\.cv(\d)\.", r".units.\1.conv\2."),
    (r"\.cv1\.", ".split."),
    (r"\.cv2\.", ".merge."),
)
POOL = ((r"\.cv1\.", ".reduce."), (r"\.cv2\.", ".merge."))
HEAD = ((r"\.cv2\.", ".box."), (r"\.cv3\.", ".classes."), (r"\.dfl\.conv\.weight", ".bins"))
NORM = ((r"\.bn\.", ".norm."),)
LEAST_SIZE = 32
MAX_MODULES = 10_000  # yolov8x has 370


@dataclass(frozen=True)
class Imported:
    """What a checkpoint holds.

    Attributes:
        variant: yolov8n to yolov8x.
        class_names: in the order of the labels.
        image_size: that it was trained with, pixels; None: it does not say.
        model: the detector with its weights, float32.
    """

    variant: str
    class_names: list[str]
    image_size: int | None
    model: YOLO


def read_yolov8(path: Path) -> Imported:
    """The detector in a checkpoint of the original trainer. Nothing in the file is run.

    Raises:
        UserError: it cannot be read, asks to run code, or is not a YOLOv8 detector.
    """
    content = read_records(path, PACKAGES)
    # The average is what was scored; files that were stripped for publication have it in the place of the model.
    network = next((content[key] for key in ("ema", "model") if is_record(content, key)), None)
    if network is None:
        raise UserError(f"{path} is no YOLOv8 checkpoint: it holds no model")
    state = state_of(network, path)
    names = class_names(network, state, path)
    variant = f"yolov8{find_scale(state, path)}"
    model = build_model(variant, len(names))
    load(model, state, path)
    settings = content.get("train_args")
    size = settings.get("imgsz") if isinstance(settings, dict) else None
    is_usable = isinstance(size, int) and size >= LEAST_SIZE and size % LEAST_SIZE == 0
    return Imported(variant, names, size if is_usable else None, model.eval())


def is_record(content: Any, key: str) -> bool:
    """An object of the file under a key of its dictionary."""
    return isinstance(content, dict) and isinstance(content.get(key), Record)


def state_of(network: Record, path: Path) -> dict[str, Tensor]:
    """The tensors of a module and of those in it, by name, as `state_dict` has them.

    Raises:
        UserError: it has more modules than any detector: they contain each other.
    """
    state: dict[str, Tensor] = {}
    waiting: list[tuple[str, Record]] = [("", network)]
    for _ in range(MAX_MODULES):
        if not waiting:
            return state
        prefix, module = waiting.pop()
        for group in ("_parameters", "_buffers"):
            state |= {f"{prefix}{name}": x for name, x in items(module, group) if isinstance(x, Tensor)}
        children = [(f"{prefix}{name}.", child) for name, child in items(module, "_modules")]
        waiting += [(name, child) for name, child in children if isinstance(child, Record)]
    raise UserError(f"{path} is refused: its model has more than {MAX_MODULES:,} modules")


def items(module: Record, group: str) -> list[tuple[Any, Any]]:
    """What a module has under the name of a dictionary."""
    found = module.attributes.get(group)
    return list(found.items()) if isinstance(found, dict) else []


def class_names(network: Record, state: dict[str, Tensor], path: Path) -> list[str]:
    """The names of the classes, or numbers where the file has none.

    Raises:
        UserError: there are more or fewer names than classes.
    """
    bias = state.get("model.22.cv3.0.2.bias")
    if bias is None:
        raise UserError(f"{path} is no YOLOv8 detector: it has no model.22.cv3.0.2.bias")
    names = network.attributes.get("names")
    values = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(values, list | tuple):
        values = list(range(len(bias)))
    if len(values) != len(bias):
        raise UserError(f"{path} has {len(values)} names for {len(bias)} classes")
    return [str(value) for value in values]


def find_scale(state: dict[str, Tensor], path: Path) -> str:
    """n, s, m, l or x, by the channels of the stem.

    Raises:
        UserError: it is none of these.
    """
    stem = state.get("model.0.conv.weight")
    if stem is None:
        raise UserError(f"{path} is no YOLOv8 detector: it has no model.0.conv.weight")
    widths = {spec.channels()[0]: scale for scale, spec in SCALES.items()}
    if len(stem) not in widths:
        known = ", ".join(f"{width} ({scale})" for width, scale in widths.items())
        raise UserError(f"{path}: its stem has {len(stem)} channels, YOLOv8 has {known}")
    return widths[len(stem)]


def our_name(name: str) -> str | None:
    """What a tensor is called here; None: there is no such layer."""
    match = re.fullmatch(r"model\.(\d+)\.(.+)", name)
    if match is None or int(match[1]) not in LAYERS:
        return None
    layer = LAYERS[int(match[1])]
    name = f"{layer}.{match[2]}"
    rules = HEAD if layer == "head" else POOL if layer == "backbone.pool" else BLOCK
    for pattern, replacement in (*rules, *NORM):
        name = re.sub(pattern, replacement, name)
    return name


def load(model: YOLO, state: dict[str, Tensor], path: Path) -> None:
    """Copy the weights into a detector.

    Raises:
        UserError: a tensor is missing, has another shape, or has no place.
    """
    own = model.state_dict()
    moved: dict[str, Tensor] = {}
    for name, value in state.items():
        ours = our_name(name)
        if ours is None or ours not in own:
            raise UserError(f"{path}: {name} has no place in {describe(model)}")
        value = value.reshape(-1) if ours == "head.bins" else value
        if value.shape != own[ours].shape:
            raise UserError(f"{path}: {name} is {shape(value)}, and {shape(own[ours])} in {describe(model)}")
        moved[ours] = value.to(own[ours].dtype)
    missing = [name for name in own if name not in moved]
    if missing:
        raise UserError(f"{path}: {describe(model)} needs {missing[0]} ({len(missing)} tensors are missing)")
    if not all(bool(torch.isfinite(value).all()) for value in moved.values()):
        raise UserError(f"{path}: some weights are NaN or infinite")
    model.load_state_dict(moved)


def shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def describe(model: YOLO) -> str:
    """What messages call the detector."""
    return f"a YOLOv8 of {model.num_classes} classes and {model.spec.channels()[0]} channels in the stem"
