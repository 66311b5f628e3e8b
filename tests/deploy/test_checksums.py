"""A file that changed since it was written is refused, however little; one of an earlier version is opened."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.lively import lively
from yolo_lite.deploy import checksums, exporting
from yolo_lite.deploy.checksums import BLANK, SUM_KEY, check_sum, seal_file, sum_of
from yolo_lite.deploy.exporting import SUFFIXES
from yolo_lite.deploy.loading import open_runtime
from yolo_lite.utils.errors import UserError

SMALL = {"output": "decoded", "batch": 1, "input_size": (64, 64)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A detector as a file of a format, written at first use."""
    folder = tmp_path_factory.mktemp("written")
    model, info = lively(width=0.125)

    def write(kind: str) -> Path:
        for package in {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino")}.get(kind, ()):
            pytest.importorskip(package)
        path = folder / f"m{SUFFIXES[kind]}"
        if not path.exists():
            wanted = info if kind == "safetensors" else replace(info, **SMALL)  # type: ignore[arg-type]
            exporting.WRITERS[kind](model, wanted, path)
        return path

    return write


def copied(path: Path, folder: Path) -> Path:
    """A file, and what lies beside it under the same name, in another folder."""
    for file in path.parent.glob(f"{path.stem}.*"):
        shutil.copy(file, folder)
    return folder / path.name


@pytest.mark.parametrize("kind", ["onnx", "openvino", "safetensors"])
def test_a_changed_file_is_one_line(kind: str, written: Any, tmp_path: Path) -> None:
    path = copied(written(kind), tmp_path)
    open_runtime(path, "cpu")
    weights = path.with_suffix(".bin") if kind == "openvino" else path
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=rf"{weights.name} is damaged.* copy it again, or export it anew") as caught:
        open_runtime(path, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["onnx", "openvino", "safetensors"])
def test_files_of_earlier_versions_are_opened(kind: str, written: Any, tmp_path: Path) -> None:
    """They hold no sum."""
    path = copied(written(kind), tmp_path)
    content = path.read_bytes()
    assert SUM_KEY.encode() in content
    path.write_bytes(content.replace(SUM_KEY.encode(), b"x" * len(SUM_KEY)))
    assert open_runtime(path, "cpu").info.class_names


@pytest.mark.parametrize("place", [0, 5, 10, 15, 16, 17, 40, 79, 80, 81, 200])
def test_a_sum_is_found_wherever_blocks_end(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BLOCK", 80)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"a" * place + BLANK.encode() + b"b" * (250 - place))
    seal_file(path)
    content = path.read_bytes()
    assert BLANK.encode() not in content
    own = content[place : place + len(BLANK)].decode()
    check_sum(path, own)
    path.write_bytes(content[:-1] + b"c")
    with pytest.raises(UserError, match=r"m\.onnx is damaged"):
        check_sum(path, own)


@given(content=st.binary(max_size=500), block=st.integers(1, 300))
def test_blocks_do_not_change_the_sum(content: bytes, block: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("sum") / "m.onnx"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        whole = sum_of(path, BLANK)
        patch.setattr(checksums, "BLOCK", block)
        assert sum_of(path, BLANK) == whole


def test_a_damaged_sum_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"weights" + BLANK.encode())
    seal_file(path)
    for own in ("", "weights", BLANK):
        with pytest.raises(UserError, match="is damaged"):
            check_sum(path, own)
