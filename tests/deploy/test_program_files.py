"""Programs of torch.export whose maker wants code to run: nothing does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.deploy.lively import lively
from yolo_lite.deploy.detector import load_model
from yolo_lite.deploy.formats import write_torch_export
from yolo_lite.deploy.program_files import is_expression
from yolo_lite.utils.errors import UserError

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
GRAPH = "models/model.json"
EXAMPLE = "data/sample_inputs/model.pt"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def pickled(path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Bomb(path), buffer)
    return buffer.getvalue()


def changed(content: bytes, change: Callable[[Any], object]) -> bytes:
    values = json.loads(content)
    change(values)
    return json.dumps(values).encode()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    write_torch_export(*lively(width=0.125), path)
    return path


def rewrite(program: Path, path: Path, parts: dict[str, Callable[[bytes], bytes]]) -> Path:
    """A copy in which some parts are others; those that are not there yet are made from nothing."""
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        folder = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            content, change = old.read(name), parts.get(name.partition("/")[2])
            new.writestr(name, change(content) if change else content)
        for part in parts:
            if f"{folder}/{part}" not in old.namelist():
                new.writestr(f"{folder}/{part}", parts[part](b""))
    return path


def set_pickled(values: Any) -> None:
    next(iter(values["config"].values()))["use_pickle"] = True


def set_opaque(values: Any) -> None:
    values["config"]["x"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}


def set_target(values: Any) -> None:
    values["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.mkdir"


def set_size(ran: Path) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        text = json.dumps(values)
        _, _, rest = text.partition('"expr_str": ')
        first = rest[: rest.index('"', 1) + 1]
        code = json.dumps(f"__import__('os').mkdir({str(ran)!r})")
        values.update(json.loads(text.replace(first, code, 1)))

    return change


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("example", "holds more than tensors"),
        ("weight", "names a pickled tensor"),
        ("object", "opaque_obj_0|names a pickled tensor"),
        ("target", r"calls 'torch\.os\.mkdir'"),
        ("size", "for a size"),
        ("library", "it holds data/aotinductor"),
        ("legacy", "it holds data/weights/model.pt"),
    ],
)
def test_nothing_in_a_program_runs(attack: str, reason: str, program: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    parts: dict[str, dict[str, Callable[[bytes], bytes]]] = {
        "example": {EXAMPLE: lambda _: pickled(ran)},
        "weight": {WEIGHTS: lambda old: changed(old, set_pickled), "data/weights/weight_0": lambda _: pickled(ran)},
        "object": {CONSTANTS: lambda old: changed(old, set_opaque), "data/constants/opaque_obj_0": lambda _: b"."},
        "target": {GRAPH: lambda old: changed(old, set_target)},
        "size": {GRAPH: lambda old: changed(old, set_size(ran))},
        "library": {"data/aotinductor/model/x.so": lambda _: b"ELF"},
        "legacy": {"data/weights/model.pt": lambda _: pickled(ran)},
    }
    bad = rewrite(program, tmp_path / "bad.pt2", parts[attack])
    with pytest.raises(UserError, match=rf"bad\.pt2 is no detector of yolo-lite, and is not opened: .*({reason})"):
        load_model(bad)
    assert not ran.exists()
    if attack in ("example", "weight", "size"):
        with contextlib.suppress(Exception):  # what it thinks of the rest is its own affair
            torch.export.load(bad)
        assert ran.exists()  # it would have


def test_a_rewritten_program_is_read_as_before(program: Path, tmp_path: Path) -> None:
    assert load_model(rewrite(program, tmp_path / "same.pt2", {})).class_names == load_model(program).class_names


def test_damage_is_one_line(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("cut", program.read_bytes()[:5000]), ("empty", b""), ("text", b"hello")):
        path = tmp_path / f"{name}.pt2"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.pt2 is not a readable torch.export program"):
            load_model(path)
    assert capsys.readouterr().err == ""


def test_changed_weights_are_found(program: Path, tmp_path: Path) -> None:
    content = bytearray(program.read_bytes())
    with zipfile.ZipFile(program) as file:
        weights = (part for part in file.infolist() if "/data/weights/weight_" in part.filename)
        largest = max(weights, key=lambda part: part.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path = tmp_path / "changed.pt2"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"changed.pt2 is damaged in {largest.filename}"):
        load_model(path)


@pytest.mark.parametrize(
    ("text", "is_fine"),
    [
        ("Mul(Integer(-2), Symbol('s99', positive=True, integer=True))", True),
        ("2*s0 + 1", True),
        ("eval('x')", False),
        ("().__class__", False),
        ("s0.x", False),
        ("1" * 100_000 + "!", False),
    ],
)
def test_expressions(text: str, is_fine: bool) -> None:
    assert is_expression(text) == is_fine
