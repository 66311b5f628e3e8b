"""Initial weights: what fits is taken, classes go by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolo_lite.models import build_model
from yolo_lite.utils.checkpoints import read_checkpoint, transfer_weights
from yolo_lite.utils.errors import UserError

OLD = ["cat", "dog", "fish"]


@pytest.mark.parametrize("classes", [["fish", "cat", "dog"], ["dog", "bird", "cat"], ["dog", "cat"]])
def test_rows_of_classes_go_by_name(classes: list[str]) -> None:
    torch.manual_seed(0)
    source, target = build_model("yolov8n", 3), build_model("yolov8n", len(classes))
    fresh = target.head.classes[0][2].weight.detach().clone()
    moved, missing = transfer_weights(target, source.state_dict(), classes, OLD)
    assert moved + len(missing) == len(target.state_dict())
    for branch, old in zip(target.head.classes, source.head.classes, strict=True):
        for row, name in enumerate(classes):
            if name in OLD:
                assert torch.equal(branch[2].weight[row], old[2].weight[OLD.index(name)])
                assert torch.equal(branch[2].bias[row], old[2].bias[OLD.index(name)])
    if "bird" in classes:
        assert torch.equal(target.head.classes[0][2].weight[1], fresh[1])
    assert bool(missing) == ("bird" in classes)
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(target.backbone.state_dict()[name], value)


def test_another_variant_is_no_start() -> None:
    target = build_model("yolov8m-lite", 3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError, match="layers of the initial weights fit"):
        transfer_weights(target, build_model("yolov8n", 3).state_dict(), OLD, OLD)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder: give the file"):
        read_checkpoint(tmp_path)
