"""Checkpoints that cannot be read are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolo_lite.deploy.loading import load_weights
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.errors import UserError


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder: give the file"):
        read_checkpoint(tmp_path)


def test_what_pytorch_did_not_write_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "notes.ckpt"
    path.write_text("hi\n")
    with pytest.raises(UserError, match=r"notes.ckpt is not a readable checkpoint: PyTorch did not write it"):
        read_checkpoint(path)


def test_weights_cannot_be_taken_from_exported_models(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"any")
    with pytest.raises(UserError, match=r"model.onnx is an exported model: give the .ckpt or .safetensors"):
        load_weights(path)
    with pytest.raises(UserError, match=r"no checkpoint .*none.onnx"):
        load_weights(tmp_path / "none.onnx")
