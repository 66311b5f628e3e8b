"""Checkpoints that cannot be read are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.errors import UserError


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder: give the file"):
        read_checkpoint(tmp_path)
