"""A checkpoint of the original trainer gives what it gave there; a hostile one is refused and does nothing."""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yolo_lite import import_yolov8, load_model
from yolo_lite.imports.records import read_records
from yolo_lite.imports.yolov8 import PACKAGES, read_yolov8
from yolo_lite.models import build_model
from yolo_lite.ops.postprocess import decode_maps
from yolo_lite.utils.errors import UserError

FOLDER = Path(os.environ.get("YOLO_LITE_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
REFERENCE = FOLDER / "yolov8n_bccd.pt"
needs_reference = pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no {REFERENCE} (YOLO_LITE_REFERENCE)")


@needs_reference
def test_outputs_are_those_of_the_original() -> None:
    known = np.load(REFERENCE.with_suffix(".npz"))
    found = read_yolov8(REFERENCE)
    assert (found.variant, found.class_names, found.image_size) == ("yolov8n", known["names"].tolist(), 320)
    image = torch.from_numpy(known["image"]).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        decoded = decode_maps(found.model(image), found.model.strides, found.model.spec.reg_max)
    assert np.abs(decoded.boxes_xyxy[0].numpy() - known["boxes_xyxy"]).max() / 320 < 1e-4
    assert np.abs(decoded.logits[0].sigmoid().T.numpy() - known["scores"]).max() < 1e-5


@needs_reference
def test_the_checkpoint_is_one_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "ours.ckpt"
    assert import_yolov8.main([str(REFERENCE), "--out", str(target)]) == 0
    assert "keep the licence" in capsys.readouterr().out
    known = np.load(REFERENCE.with_suffix(".npz"))
    detector = load_model(target)
    assert (detector.class_names, detector.image_size) == (tuple(known["names"].tolist()), 320)
    (found,) = detector.predict(known["image"])
    assert len(found) > 5
    best = known["scores"].max(axis=1).argmax()
    assert found.scores[0] == pytest.approx(known["scores"].max(), abs=1e-5)
    np.testing.assert_allclose(found.boxes_xyxy[0], known["boxes_xyxy"][best].clip(0, 320), atol=0.05)
    assert import_yolov8.main([str(REFERENCE), "--out", str(target)]) == 2
    assert "is there already" in capsys.readouterr().err


class Holder(nn.Module):
    """Stands for a class of the original package, as it has `model`, `names` and modules by number."""


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """What the original trainer saves, with random weights, as `original("s", classes=7)`; its package is faked."""
    package = types.ModuleType("ultralytics")
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(Holder, "__module__", "ultralytics.nn.tasks")
    package.Holder = Holder  # type: ignore[attr-defined]

    def make(scale: str = "n", classes: int = 2, dtype: torch.dtype = torch.float32, **changes: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        ours = build_model(f"yolov8{scale}", classes)
        root = Holder()
        for name, value in ours.state_dict().items():
            place(root, their_name(name), value.to(dtype) if value.is_floating_point() else value)
        root.names = dict(enumerate(f"class {i}" for i in range(classes)))  # type: ignore[assignment]
        return {"model": root, "ema": None, "train_args": {"imgsz": 96}, **changes}

    yield make


def their_name(name: str) -> str:
    """The inverse of the table in yolov8.py, spelled out."""
    layers = {
        "backbone.stem": "0",
        **{f"backbone.stage{i}.down": str(2 * i - 3) for i in range(2, 6)},
        **{f"backbone.stage{i}.block": str(2 * i - 2) for i in range(2, 6)},
        **{"backbone.pool": "9", "neck.top_down.1": "12", "neck.top_down.0": "15", "neck.down.0": "16"},
        **{"neck.bottom_up.0": "18", "neck.down.1": "19", "neck.bottom_up.1": "21", "head": "22"},
    }
    layer = next(layer for layer in sorted(layers, key=len, reverse=True) if name.startswith(f"{layer}."))
    rest = name.removeprefix(layer)
    for ours, theirs in (
        *(
            (".units.", ".m."),
            (".conv1.", ".cv1."),
            (".conv2.", ".cv2."),
            (".norm.", ".bn."),
            (".bins", ".dfl.conv.weight"),
        ),
        *(
            (".split.", ".cv1."),
            (".merge.", ".cv2."),
            (".reduce.", ".cv1."),
            (".box.", ".cv2."),
            (".classes.", ".cv3."),
        ),
    ):
        rest = rest.replace(ours, theirs)
    return f"model.{layers[layer]}{rest}"


def place(root: nn.Module, name: str, value: torch.Tensor) -> None:
    """Make the modules of a name and put a tensor there."""
    *parts, last = name.split(".")
    for part in parts:
        if part not in root._modules:
            root.add_module(part, Holder())
        root = root._modules[part]  # type: ignore[assignment]
    if last == "weight" and parts[-1] == "conv" and parts[-2] == "dfl":
        value = value.view(1, -1, 1, 1)
    if last in ("weight", "bias"):
        root.register_parameter(last, nn.Parameter(value, requires_grad=False))
    else:
        root.register_buffer(last, value)


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    for name in [name for name in sys.modules if name.startswith("ultralytics")]:
        del sys.modules[name]  # it is read without the package
    return path


@pytest.mark.parametrize("scale", ["n", "s", "m", "l", "x"])
def test_every_scale_and_number_of_classes(scale: str, original: Any, tmp_path: Path) -> None:
    classes = 3 if scale == "n" else 1
    found = read_yolov8(save(original(scale, classes), tmp_path / "m.pt"))
    torch.manual_seed(0)
    expected = build_model(f"yolov8{scale}", classes).state_dict()
    assert found.variant == f"yolov8{scale}"
    assert found.image_size == 96
    assert found.class_names == [f"class {i}" for i in range(classes)]
    assert all(torch.equal(value, expected[name]) for name, value in found.model.state_dict().items())


def test_the_average_comes_first_and_halves_become_floats(original: Any, tmp_path: Path) -> None:
    average = original(dtype=torch.float16)["model"]
    content = original(ema=average)
    for parameter in content["model"].parameters():
        parameter.zero_()
    found = read_yolov8(save(content, tmp_path / "m.pt"))
    assert found.model.backbone.stem.conv.weight.dtype == torch.float32
    assert found.model.backbone.stem.conv.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "needs backbone.stem.conv.weight|no model.0.conv.weight"),
        ("norm", r"needs neck.down.0.norm.weight \(1 tensors are missing\)"),
        ("extra", r"model.22.new.weight has no place"),
        ("misshapen", r"model.16.conv.weight is 64x64x1x1, and 64x64x3x3 in"),
        ("nan", "NaN or infinite"),
        ("names", "has 5 names for 2 classes"),
    ],
)
def test_what_does_not_fit_is_named(change: str, message: str, original: Any, tmp_path: Path) -> None:
    content = original()
    layers = content["model"]._modules["model"]._modules
    if change == "missing":
        del layers["0"]
    elif change == "norm":
        del layers["16"]._modules["bn"]._parameters["weight"]
    elif change == "extra":
        place(content["model"], "model.22.new.weight", torch.zeros(2))
    elif change == "misshapen":
        layers["16"]._modules["conv"].weight = nn.Parameter(torch.zeros(64, 64, 1, 1))
    elif change == "nan":
        layers["16"]._modules["conv"].weight.data[0] = torch.nan
    else:
        content["model"].names = dict(enumerate("abcde"))
    with pytest.raises(UserError, match=message):
        read_yolov8(save(content, tmp_path / "m.pt"))


@pytest.mark.parametrize("size", [100, -32, 0])
def test_a_size_that_no_detector_takes_is_one_line(size: int, original: Any, tmp_path: Path, capsys: Any) -> None:
    source, target = save(original(), tmp_path / "m.pt"), tmp_path / "ours.ckpt"
    assert import_yolov8.main([str(source), "--out", str(target), "--image_size", str(size)]) == 2
    assert capsys.readouterr().err == f"error: image_size={size}: give a multiple of 32\n"
    assert not target.exists()


def test_a_checkpoint_has_a_name_by_which_it_is_known_again(original: Any, tmp_path: Path, capsys: Any) -> None:
    source, target = save(original(), tmp_path / "m.pt"), tmp_path / "ours.pt"
    assert import_yolov8.main([str(source), "--out", str(target)]) == 2
    assert "ours.pt: a checkpoint must be called *.ckpt" in capsys.readouterr().err
    assert not target.exists()


class Attack:
    """Runs something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("depth", [0, 1, 5])
@pytest.mark.parametrize("function", ["system", "eval", "getattr", "open", "import"])
def test_code_is_refused_by_name_and_not_run(function: str, depth: int, tmp_path: Path, original: Any) -> None:
    trace = tmp_path / "trace"
    attacks = {
        "system": (Attack(os.system, f"touch {trace}"), r"(posix|nt)\.system"),
        "eval": (Attack(eval, f"open({str(trace)!r}, 'w')"), r"_*builtins?_*\.eval"),
        "getattr": (Attack(getattr, "", "upper"), r"_*builtins?_*\.getattr"),
        "open": (Attack(io.open, str(trace), "w"), r"(io|_*builtins?_*)\.open"),
        "import": (Attack(__import__, "os"), r"_*builtins?_*\.__import__"),
    }
    attack, name = attacks[function]
    content: Any = original(hidden=attack)
    for _ in range(depth):
        content = {"model": OrderedDict(deeper=[content])}
    path = save(content, tmp_path / "m.pt")
    with pytest.raises(UserError, match=rf"is refused: it asks for {name}"):
        read_yolov8(path)
    assert not trace.exists()
    target = tmp_path / "out.ckpt"
    assert import_yolov8.main([str(path), "--out", str(target)]) == 2
    assert not target.exists() and not trace.exists()


def archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def test_archives_that_are_not_as_torch_writes_them(tmp_path: Path) -> None:
    plain = pickle.dumps({"model": 1}, protocol=2)
    bomb = archive(tmp_path / "bomb.pt", {"m/data.pkl": b"0" * 10_000_000}, zipfile.ZIP_DEFLATED)
    renamed = archive(tmp_path / "renamed.pt", {"m/archive.pkl": plain})
    two = archive(tmp_path / "two.pt", {"m/data.pkl": plain, "n/data.pkl": plain})
    for path, message in (
        (bomb, "is compressed"),
        (renamed, "holds 0 files data.pkl"),
        (two, "holds 2 files data.pkl"),
    ):
        with pytest.raises(UserError, match=f"is refused: .*{message}"):
            read_records(path, PACKAGES)
    with pytest.raises(UserError, match="holds no model"):
        read_yolov8(archive(tmp_path / "nothing.pt", {"m/data.pkl": plain}))
    for name, content in (("empty.pt", b""), ("text.pt", b"hello"), ("old.pt", pickle.dumps({"model": 1}))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"no file of torch\.save"):
            read_records(tmp_path / name, PACKAGES)
    with pytest.raises(UserError, match="no file"):
        read_records(tmp_path / "none.pt", PACKAGES)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((2, 2), (3, 1), 0), ((4,), (1,), 1), ((9,), (0,), 0), ((-1,), (1,), 0)],
)
def test_tensors_stay_in_their_storage(size: Any, stride: Any, offset: int, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"x": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as file:
        entries = {entry.filename: file.read(entry) for entry in file.infolist()}
    (key,) = [name for name in entries if name.endswith("data.pkl")]

    class Written(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, bytes) else None

    buffer = io.BytesIO()
    rebuild = Attack(torch._utils._rebuild_tensor_v2, b"", offset, size, stride, False, OrderedDict())
    Written(buffer, protocol=2).dump({"x": rebuild})
    entries[key] = buffer.getvalue()
    with pytest.raises(UserError, match="cannot be read: a tensor of size"):
        read_records(archive(tmp_path / "bad.pt", entries), PACKAGES)


def test_modules_that_contain_each_other_end(original: Any, tmp_path: Path) -> None:
    content = original()
    content["model"].add_module("again", content["model"])
    with pytest.raises(UserError, match="more than 10,000 modules"):
        read_yolov8(save(content, tmp_path / "m.pt"))


def test_damaged_files_are_one_line(original: Any, tmp_path: Path) -> None:
    whole = save(original(), tmp_path / "m.pt").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.pt"
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(20):
            content[rng.integers(200, 60_000)] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_yolov8(path)
        except UserError as error:
            assert "\n" not in str(error)
