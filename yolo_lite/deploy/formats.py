"""Writing a detector as ONNX, OpenVINO, TorchScript, torch.export or bare weights.

Each function writes one file (OpenVINO: two) to a path that is not there yet; `export.py` sees to it that a file gets
its name only after it was checked.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo_lite.deploy.checksums import BLANK, SUM_KEY, seal_file
from yolo_lite.deploy.graph import DetectorGraph, output_names, suppress_scores
from yolo_lite.deploy.model_info import KEY, SIZE_DIVISOR, ModelInfo
from yolo_lite.deploy.runtimes import needed, quiet
from yolo_lite.models.yolo import YOLO, ModelSpec

OPSET = 18
# Of an input of any size: the least and the largest number of multiples of 32 that the graph is made for.
LEAST, MOST = 1, 256
# An example with sides that differ from each other and from everything else, so that nothing is mistaken for equal.
EXAMPLE_BATCH, EXAMPLE_SIZE = 2, (160, 96)


def example_images(info: ModelInfo) -> Tensor:
    """(B, 3, H, W) float32 of a shape that the model takes."""
    height, width = info.input_size or EXAMPLE_SIZE
    return torch.zeros(info.batch or EXAMPLE_BATCH, 3, height, width)


def make_graph(model: YOLO, info: ModelInfo, suppress: Any = None) -> DetectorGraph:
    """What is written, of a detector; `suppress` as of `DetectorGraph`."""
    return DetectorGraph(model, info.output, info.suppression, info.precision == "fp16", suppress)


def traced_program(graph: DetectorGraph, info: ModelInfo) -> Any:
    """The graph as torch.export sees it, with the dimensions open that `info` leaves open."""
    shape: dict[int, Any] = {}
    if info.batch is None:
        shape[0] = torch.export.Dim("batch", min=1)
    if info.input_size is None:
        for axis, name in ((2, "height"), (3, "width")):
            shape[axis] = SIZE_DIVISOR * torch.export.Dim(f"{name}_in_{SIZE_DIVISOR}", min=LEAST, max=MOST)
    with quiet():
        return torch.export.export(graph, (example_images(info),), dynamic_shapes={"images": shape})


def write_onnx(model: YOLO, info: ModelInfo, path: Path) -> None:
    """An ONNX file, by torch's exporter; it holds no paths and no source code."""
    for package in ("onnx", "onnxscript"):
        needed(package, "--format onnx")
    with quiet():
        program = torch.onnx.export(
            traced_program(make_graph(model, info), info),
            dynamo=True,
            input_names=["images"],
            output_names=list(output_names(info.output, info.strides)),
            opset_version=OPSET,
            verbose=False,
            custom_translation_table=translations(),
        )
    assert program is not None
    proto = program.model_proto
    strip_metadata(proto)
    name_dimensions(proto, info)
    save_onnx(proto, info, path)


def save_onnx(proto: Any, info: ModelInfo, path: Path) -> None:
    """Write an ONNX file with its description and its sum."""
    onnx = needed("onnx", path)
    onnx.helper.set_model_props(proto, {KEY: info.to_json(), SUM_KEY: BLANK})
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))
    seal_file(path)


def translations() -> dict[Any, Any]:
    """ONNX for operations of our own."""
    from onnxscript import opset18 as op

    def suppress(boxes_xyxy: Any, scores: Any, iou_threshold: float, score_threshold: float, max_per_class: int) -> Any:
        limits: Any = (
            op.Constant(value_ints=[max_per_class]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[score_threshold]),
        )
        kept = op.NonMaxSuppression(boxes_xyxy, scores, *limits)  # (S, 3): image, class, anchor
        nothing = op.Mul(scores, op.Constant(value_floats=[0.0]))
        return op.ScatterND(nothing, kept, op.GatherND(scores, kept))

    return {torch.ops.yolo_lite.suppress.default: suppress}


def strip_metadata(proto: Any) -> None:
    """Leave out where each node comes from: traces with paths of this machine, more than the graph itself."""
    parts = [proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.value_info, *proto.functions]
    for part in [*parts, *proto.graph.input, *proto.graph.output]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def name_dimensions(proto: Any, info: ModelInfo) -> None:
    """Speaking names for the open dimensions of the input."""
    names = {0: "batch", 2: "height", 3: "width"}
    dimensions = proto.graph.input[0].type.tensor_type.shape.dim
    for axis, name in names.items():
        if dimensions[axis].dim_param:
            dimensions[axis].dim_param = name


def write_openvino(model: YOLO, info: ModelInfo, path: Path) -> None:
    """OpenVINO's .xml and, beside it, .bin, by way of ONNX."""
    openvino = needed("openvino", "--format openvino")
    middle = path.with_suffix(".onnx")
    # Its own conversion to float16 keeps float32 where that is safer, so it begins with float32.
    write_onnx(model, replace(info, precision="fp32"), middle)
    try:
        with quiet():
            converted = openvino.convert_model(str(middle))
    finally:
        middle.unlink(missing_ok=True)
    save_openvino(converted, info, path)


def save_openvino(model: Any, info: ModelInfo, path: Path) -> None:
    """Write OpenVINO's .xml, with the description and the sum of the .bin, and the .bin.

    Raises:
        OSError: the system cannot write them, of which OpenVINO gives no reason.
    """
    openvino = needed("openvino", path)
    model.set_rt_info(info.to_json(), [KEY])
    model.set_rt_info(BLANK, [SUM_KEY])
    try:
        openvino.save_model(model, str(path), compress_to_fp16=info.precision == "fp16")
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        raise OSError("OpenVINO's output failed, as it does where the disk is full") from error
    seal_file(path)


def write_torchscript(model: YOLO, info: ModelInfo, path: Path) -> None:
    """A TorchScript file; outputs are a list of tensors."""
    with quiet(), torch.no_grad():
        graph = make_graph(model, info, torch.jit.script(suppress_scores))
        traced = torch.jit.trace(graph, example_images(info), check_trace=False)
        content = io.BytesIO()  # of a full disk torch would make the end of the process
        torch.jit.save(traced, content, _extra_files={KEY: info.to_json()})
    path.write_bytes(content.getvalue())


def write_torch_export(model: YOLO, info: ModelInfo, path: Path) -> None:
    """A program of torch.export."""
    content = io.BytesIO()  # as for TorchScript
    with quiet():
        torch.export.save(traced_program(make_graph(model, info), info), content, extra_files={KEY: info.to_json()})
    path.write_bytes(content.getvalue())


def write_safetensors(model: YOLO, info: ModelInfo, path: Path) -> None:
    """The weights alone, under their names in the state dict, with what builds the model in the file's header."""
    save = needed("safetensors.torch", "--format safetensors").save
    dtype = torch.float16 if info.precision == "fp16" else torch.float32
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    spec: ModelSpec = model.spec
    metadata = {KEY: info.to_json(), SUM_KEY: BLANK, "spec": json.dumps(asdict(spec))}
    # Not by `save_file`, whose files nobody but their owner may read.
    path.write_bytes(save({name: value.contiguous() for name, value in state.items()}, metadata=metadata))
    seal_file(path)
