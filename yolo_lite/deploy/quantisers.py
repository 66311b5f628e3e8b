"""From an exported float32 file to one in int8: by ONNX Runtime's quantiser, or by NNCF for OpenVINO.

Notation: N images. Everything behind the head's last convolutions, the softmax over the bins and the sigmoid of the
logits, stays in float32 always; of the rest, what the caller names.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor

from yolo_lite.deploy.formats import save_onnx, save_openvino
from yolo_lite.deploy.model_info import ModelInfo
from yolo_lite.deploy.runtimes import as_floats, needed, quiet
from yolo_lite.utils.signals import keeping_signal_stack

# That ONNX Runtime computes in int8: between two convolutions none needs a way back to float.
ONNX_OPERATIONS = (
    "Conv",
    "Sigmoid",
    "Mul",
    "Relu",
    "Add",
    "Concat",
    "Split",
    "Slice",
    "MaxPool",
    "AveragePool",
    "Resize",
)
# Between a convolution and the next: they stay in float together with it.
ACTIVATIONS = ("Sigmoid", "Mul", "Relu")


def quantise_onnx(
    source: Path, target: Path, info: ModelInfo, images: Tensor, kept: Collection[str], last: Collection[str], bits: int
) -> None:
    """Write an ONNX file with quantise and dequantise nodes.

    Args:
        source: the float32 file.
        target: where to.
        info: what the new file says of itself.
        images: (N, 3, H, W) uint8 that say how large activations get.
        kept: convolutions that stay in float32, as the detector calls them.
        last: those that give the raw maps.
        bits: of a weight, 7 or 8.
    """
    onnx, _ = needed("onnx", "--format onnx"), needed("onnxruntime", "--format onnx")
    from onnxruntime import quantization as tools
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    with silent():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        nodes = list(onnx.load(str(prepared)).graph.node)
        tools.quantize_static(
            str(prepared),
            str(target),
            calibration_reader(images, info.batch or 1, tools.CalibrationDataReader),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=list(ONNX_OPERATIONS),
            nodes_to_exclude=sorted(behind(nodes, last) | with_activations(nodes, kept)),
            per_channel=True,
            reduce_range=bits < 8,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
    prepared.unlink()
    proto = onnx.load(str(target))
    shorten(proto.graph)
    save_onnx(proto, info, target)


def shorten(graph: Any) -> None:
    """Numbers for the names of all that comes between: in a small model of many layers they, and the shapes that the
    quantiser notes, take more than a tenth of the file. Weights, inputs and outputs are called as before."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = [output for node in graph.node for output in node.output]
    names += [tensor.name for tensor in graph.initializer if tensor.name.endswith(("_scale", "_zero_point"))]
    numbers = {name: str(i) for i, name in enumerate(name for name in names if name not in kept)}
    for node in graph.node:
        node.name = ""
        node.input[:] = [numbers.get(name, name) for name in node.input]
        node.output[:] = [numbers.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = numbers.get(tensor.name, tensor.name)
    del graph.value_info[:]


def layer_of(node: Any) -> str:
    """The detector's name of a convolution in ONNX; empty for other nodes."""
    return layer_name(node.input[1]) if node.op_type == "Conv" else ""


def layer_name(weight: str) -> str:
    """The layer that a weight of the exported graph belongs to."""
    return weight.removeprefix("detector.").removesuffix(".weight")


def behind(nodes: list[Any], last: Collection[str]) -> set[str]:
    """Names of the nodes that what certain layers give goes through; nodes are sorted as they run."""
    tensors: set[str] = set()
    found: set[str] = set()
    for node in nodes:
        if layer_of(node) in last:
            tensors.update(node.output)
        elif tensors.intersection(node.input):
            tensors.update(node.output)
            found.add(node.name)
    return found


def with_activations(nodes: list[Any], layers: Collection[str]) -> set[str]:
    """Names of the nodes of some layers, activation functions included; nodes are sorted as they run.

    Between the two there may be the addition of what another layer gives (see `FusedTopDown`), in float then as well.
    """
    activated = {value for node in nodes if node.op_type in ACTIVATIONS for value in node.input}
    added = {
        value for node in nodes if node.op_type == "Add" and activated.intersection(node.output) for value in node.input
    }
    found: set[str] = set()
    outputs: set[str] = set()
    for node in nodes:
        is_between = activated.intersection(node.output) if node.op_type == "Add" else added.intersection(node.output)
        if layer_of(node) in layers or (
            node.op_type in ("Add", "Resize") and is_between and outputs.intersection(node.input)
        ):
            found.add(node.name)
            outputs.update(node.output)
        elif node.op_type in ACTIVATIONS and outputs.intersection(node.input):
            found.add(node.name)
    return found


def calibration_reader(images: Tensor, batch: int, base: Any) -> Any:
    """Images as ONNX Runtime asks for them."""

    class Reader(base):
        def __init__(self) -> None:
            self.batches = batches(images, batch)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.batches, None)
            return None if found is None else {"images": found}

    return Reader()


def batches(images: Tensor, size: int) -> Iterator[np.ndarray]:
    """All images in float32, so many at once; the first ones fill up the last batch."""
    for start in range(0, len(images), size):
        yield as_floats(images[[i % len(images) for i in range(start, start + size)]])


def quantise_openvino(
    source: Path, target: Path, info: ModelInfo, images: Tensor, kept: Collection[str], last: Collection[str], bits: int
) -> None:
    """Write OpenVINO's .xml and .bin with fake-quantise operations; arguments as in `quantise_onnx`."""
    openvino, nncf = needed("openvino", "--format openvino"), needed("nncf", "--format openvino")
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    operations = model.get_ordered_ops()
    overflow = nncf.OverflowFix.ENABLE if bits < 8 else nncf.OverflowFix.DISABLE
    compile_model = keeping_signal_stack()(openvino.Core.compile_model)  # which NNCF calls, with cores of its own
    # it draws bars
    with silent(), redirect_stdout(StringIO()), patch.object(openvino.Core, "compile_model", compile_model):
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(batches(images, info.batch or 1))),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=sorted(float_operations(operations, kept, last)), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
        )
    save_openvino(quantised, info, target)


def float_operations(operations: list[Any], kept: Collection[str], last: Collection[str]) -> set[str]:
    """Names of OpenVINO's operations that stay in float: some layers, and all behind the last ones."""
    found: set[str] = set()
    decoding: set[str] = set()
    for operation in operations:
        inputs = [value.get_node() for value in operation.input_values()]
        name = operation.get_friendly_name()
        is_convolution = "Convolution" in operation.get_type_name()
        layer = layer_name(constant_name(inputs[1])) if is_convolution else ""
        if layer in kept:
            found.add(name)
        if layer in last:
            decoding.add(name)
        elif any(node.get_friendly_name() in decoding for node in inputs):
            decoding.add(name)
            found.add(name)
    return found


def constant_name(node: Any) -> str:
    """The name of the constant that a weight comes from, through reshaping, as of grouped convolutions."""
    while node.get_type_name() != "Constant" and node.input_values():
        node = node.input_value(0).get_node()
    return str(node.get_friendly_name())


@contextmanager
def silent() -> Iterator[None]:
    """Quantisers advise on how to call them, through the logger that everybody shares."""
    logging.disable(logging.WARNING)
    try:
        with quiet():
            yield
    finally:
        logging.disable(logging.NOTSET)
