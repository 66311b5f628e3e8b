"""Frozen parts keep their weights and statistics and cost no gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train as train_script
from yolo_lite.models.yolo import build_model
from yolo_lite.training.freezing import PARTS, frozen_names, part_names
from yolo_lite.training.module import DetectionModule
from yolo_lite.utils.errors import UserError

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.logger", "false"),
    *("--model.variant", "yolov8n", "--model.nominal_batch", "4", "--name", "run", "--model.warmup_epochs", "0"),
]


def module(freeze: Any) -> DetectionModule:
    return DetectionModule("yolov8n", ["a", "b"], image_size=64, freeze=freeze)


def test_a_depth_counts_from_the_image_on() -> None:
    model = build_model("yolov8n", 2)
    assert frozen_names(model, 3) == ["backbone.stem", "backbone.stage2", "backbone.stage3"]
    assert frozen_names(model, 0) == frozen_names(model, None) == []
    together = [name for part in PARTS for name, _ in model.get_submodule(part).named_parameters(prefix=part)]
    assert sorted(together) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("bakbone", "did you mean backbone"),
        (["backbone.stem", "backbone.stage9"], "backbone.stage9: the model has no such part"),
        ("", "no such part"),
        (8, "a depth from 0 to 7"),
        (-1, "a depth from 0 to 7"),
        (["backbone", "neck", "head"], "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen_is_one_line(freeze: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        module(freeze)


def test_frozen_parts_take_no_gradient_memory() -> None:
    """Nothing of the backbone is kept for the backward pass, and its parameters never have a gradient."""
    images = torch.rand(2, 3, 64, 64)
    kept: list[int] = []

    def count(freeze: str | None) -> int:
        kept.clear()
        detector = module(freeze)
        detector.train()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):  # type: ignore[func-returns-value]
            features = detector.model.backbone(images)
        assert all(x.requires_grad == (freeze is None) for x in features)
        sum(x.square().mean() for x in detector.model.head(detector.model.neck(features))).backward()
        assert all((p.grad is None) == bool(freeze) for p in detector.model.backbone.parameters())
        assert all(p.grad is not None for p in detector.model.neck.parameters())
        return sum(kept)

    assert count(None) > 0
    assert count("backbone") == 0


def test_the_same_parts_can_be_named_in_many_ways() -> None:
    """A run may go on with another spelling of the same; what is named twice counts once."""
    assert part_names("backbone") == part_names(["backbone"]) == part_names(["backbone", "backbone"])
    assert part_names(2) == part_names(["backbone.stem", "backbone.stage2"])
    assert part_names(None) == part_names([]) == part_names(0) == []


def test_statistics_stay_where_batch_norm_is_replaced() -> None:
    """`--trainer.sync_batchnorm true` puts other modules into the places of the frozen ones."""
    detector = module("backbone.stem.norm")
    detector = nn.SyncBatchNorm.convert_sync_batchnorm(detector)
    detector.train()
    assert isinstance(detector.model.backbone.stem.norm, nn.SyncBatchNorm)
    assert not detector.model.backbone.stem.norm.training
    assert not any(p.requires_grad for p in detector.model.backbone.stem.norm.parameters())


def test_a_frozen_middle_lets_gradients_through() -> None:
    detector = module("neck")
    detector.train()
    maps = detector.model(torch.rand(1, 3, 64, 64))
    sum(x.square().mean() for x in maps).backward()
    assert all(p.grad is None for p in detector.model.neck.parameters())
    assert all(p.grad is not None for p in detector.model.backbone.parameters())
    assert not any(m.training for m in detector.model.neck.modules())
    assert detector.model.backbone.training


def test_training_leaves_frozen_parts_bit_for_bit(tmp_path: Path, make_coco: Any, capsys: Any) -> None:
    """Over two epochs with validation between them, in the average too; the rest of the model learns."""
    root = make_coco(tmp_path / "data")
    runs = ["--data.root", str(root), "--runs_dir", str(tmp_path / "runs"), *FAST]
    assert train_script.main([*runs, "--trainer.max_epochs", "1"]) == 0
    given = tmp_path / "runs" / "run" / "version_0" / "checkpoints" / "last.ckpt"
    command = [*runs, "--weights", str(given), "--model.freeze", "[backbone.stem, backbone.stage2]"]
    capsys.readouterr()
    assert train_script.main([*command, "--trainer.max_epochs", "2"]) == 0
    assert "frozen: backbone.stem, backbone.stage2 (12,496 parameters)" in capsys.readouterr().out
    before = torch.load(given, weights_only=True)["state_dict"]
    last = tmp_path / "runs" / "run" / "version_1" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    for key in ("state_dict", "raw_state_dict"):
        for name, value in checkpoint[key].items():
            is_frozen = name.startswith(("model.backbone.stem.", "model.backbone.stage2."))
            if is_frozen or "running_mean" in name or name.endswith("conv.weight"):
                assert torch.equal(value, before[name]) == is_frozen, name
    count = sum(len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"])
    frozen = DetectionModule("yolov8n", ["a", "b"], freeze=["backbone.stem", "backbone.stage2"])
    assert count == sum(p.requires_grad for p in frozen.parameters())

    resume = [*runs, "--trainer.max_epochs", "3", "--ckpt_path", str(last)]
    assert train_script.main([*resume, "--model.freeze", "backbone"]) == 2
    assert "was trained with model.freeze=['backbone.stem', 'backbone.stage2']" in capsys.readouterr().err
    assert train_script.main([*resume, "--model.freeze", "2"]) == 0
    resumed = torch.load(last, weights_only=True)
    assert resumed["epoch"] == 2
    name = "model.backbone.stem.norm.running_mean"
    assert torch.equal(resumed["state_dict"][name], before[name])


def test_batch_norm_of_frozen_parts_stays_through_every_change_of_mode() -> None:
    detector = module(2)
    for mode in (True, False, True):
        detector.train(mode)
        norms = [m for m in detector.model.backbone.stem.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert not any(m.training for m in norms)
        assert detector.model.head.training == mode
