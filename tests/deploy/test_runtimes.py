"""A runtime computes where it was asked to, and a graph that is not the described one is refused when it is opened."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_lite.deploy.loading import open_runtime
from yolo_lite.deploy.model_info import KEY, ModelInfo, Suppression, check_shapes
from yolo_lite.deploy.runtimes import OnnxRuntime
from yolo_lite.utils.errors import UserError

INFO = ModelInfo("yolov8n", ("a", "b"), 64, (8, 16, 32), 16)
DECODED = replace(INFO, output="decoded")
SMALL = replace(DECODED, batch=1, input_size=(64, 96))
OPEN = (None, 3, None, None)
Shape = Sequence[int | None]


@pytest.mark.parametrize(
    ("info", "images", "outputs"),
    [
        (INFO, OPEN, [(None, 66, None, None)] * 3),
        (DECODED, OPEN, [(None, None, 4), (None, None, 2)]),
        (SMALL, (1, 3, 64, 96), [(1, 126, 4), (1, 126, 2)]),
        (replace(INFO, output="nms", suppression=Suppression(0.3, 0.6, 9)), OPEN, [(None, 9, 4), (None, 9), (None, 9)]),
        (DECODED, OPEN, [(None, None, None), (None, None, None)]),  # what is not known before it runs
    ],
)
def test_a_graph_as_described(info: ModelInfo, images: Shape, outputs: list[Shape]) -> None:
    check_shapes(info, "m.onnx", images, outputs)


@pytest.mark.parametrize(
    "info",
    [
        replace(DECODED, class_names=("a",)),
        INFO,
        replace(DECODED, output="nms"),
        replace(DECODED, batch=2),
        SMALL,
    ],
    ids=["classes", "raw", "nms", "batch", "size"],
)
def test_another_graph_is_one_line(info: ModelInfo) -> None:
    with pytest.raises(UserError, match=r"m\.onnx does not fit its description: .* is \?x3x\?x\? -> \?x\?x4, \?x\?x2"):
        check_shapes(info, "m.onnx", OPEN, [(None, None, 4), (None, None, 2)])


def onnx_file(path: Path, info: ModelInfo) -> Path:
    """Two outputs that depend on nothing."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    outputs = {"boxes_xyxy": [1, 126, 4], "scores": [1, 126, 2]}
    initializers = [
        onnx.numpy_helper.from_array(np.zeros(shape, np.float32), f"{name}_0") for name, shape in outputs.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_0"], [name]) for name in outputs],
        "zeros",
        [helper.make_tensor_value_info("images", kind, [1, 3, 64, 96])],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        initializers,
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {KEY: info.to_json()})
    onnx.save(model, str(path))
    return path


def test_an_onnx_file_whose_description_was_edited_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert open_runtime(onnx_file(tmp_path / "m.onnx", SMALL), "cpu").info == SMALL
    for info in (replace(SMALL, class_names=("a",)), replace(SMALL, output="raw"), replace(SMALL, input_size=(96, 64))):
        with pytest.raises(UserError, match=r"m\.onnx does not fit its description"):
            open_runtime(onnx_file(tmp_path / "m.onnx", info), "cpu")


def test_an_xml_whose_description_was_edited_is_one_line(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed (requirements-export.txt)")
    model = openvino.convert_model(str(onnx_file(tmp_path / "m.onnx", SMALL)))
    for info, is_right in ((SMALL, True), (replace(SMALL, class_names=("a",)), False)):
        model.set_rt_info(info.to_json(), [KEY])
        openvino.save_model(model, str(tmp_path / "m.xml"))
        if is_right:
            assert open_runtime(tmp_path / "m.xml", "cpu").info == SMALL
        else:
            with pytest.raises(UserError, match=r"m\.xml does not fit its description"):
                open_runtime(tmp_path / "m.xml", "cpu")


class Session:
    """Stands for ONNX Runtime's, on a machine whose GPUs it can use or not."""

    works = True

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        self.providers = providers

    def get_providers(self) -> list[str]:
        names = [provider if isinstance(provider, str) else provider[0] for provider in self.providers]
        return [*(names if self.works else []), "CPUExecutionProvider"]

    def get_modelmeta(self) -> Any:
        return types.SimpleNamespace(custom_metadata_map={KEY: SMALL.to_json()})

    def get_inputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="images", shape=[1, 3, 64, 96])]

    def get_outputs(self) -> list[Any]:
        return [types.SimpleNamespace(shape=[1, 126, 4]), types.SimpleNamespace(shape=[1, 126, 2])]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two GPUs for ONNX Runtime, as nobody here has; the settings of its sessions."""
    entries: dict[str, str] = {}
    package: Any = types.ModuleType("onnxruntime")
    package.SessionOptions = lambda: types.SimpleNamespace(add_session_config_entry=entries.__setitem__)
    package.InferenceSession = Session
    package.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", package)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    return entries


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:1", 1)])
def test_onnx_runs_on_the_gpu_of_that_number(device: str, number: int, gpus: dict[str, str], tmp_path: Path) -> None:
    runtime = OnnxRuntime(tmp_path / "m.onnx", device)
    assert runtime.session.providers == [("CUDAExecutionProvider", {"device_id": number})]
    assert runtime.device == device
    assert gpus == {"session.force_spinning_stop": "1"}


def test_a_gpu_that_onnx_runtime_cannot_use_is_one_line(
    gpus: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with the CPU and would be said to run on the GPU."""
    monkeypatch.setattr(Session, "works", False)
    with pytest.raises(UserError, match="--device cuda:1: onnxruntime-gpu cannot use it"):
        OnnxRuntime(tmp_path / "m.onnx", "cuda:1")


def test_openvino_on_a_gpu_is_one_line(gpus: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device cuda: models of OpenVINO run on the CPU here"):
        open_runtime(tmp_path / "m.xml", "cuda")
