"""Initial weights: what fits is taken, level by level, and classes go by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import eval as eval_script
import train as train_script
from tests.deploy.lively import make_checkpoint
from yolo_lite import load_model
from yolo_lite.models.yolo import YOLO, build_model
from yolo_lite.training.initial_weights import InitialWeights, Transfer, transfer_weights
from yolo_lite.utils.errors import UserError

OLD = ["cat", "dog", "fish"]
FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.logger", "false"),
    *("--trainer.max_epochs", "1", "--model.variant", "yolov8n", "--name", "run"),
]


def weights_of(model: YOLO, classes: list[str] = OLD) -> InitialWeights:
    return InitialWeights(Path("source.ckpt"), "yolov8n", classes, model.strides, model.state_dict())


def take(target: YOLO, source: YOLO, classes: list[str] = OLD) -> Transfer:
    return transfer_weights(target, classes, weights_of(source))


@pytest.mark.parametrize(
    "classes",
    [
        ["cat", "dog", "fish", "bird", "cow"],
        ["dog", "cat"],
        ["fish", "cat", "dog"],
        ["dog", "bird", "cat"],
        ["bird", "cow", "horse"],
    ],
    ids=["more", "fewer", "reordered", "one renamed", "all renamed"],
)
def test_rows_of_classes_go_by_name(classes: list[str]) -> None:
    torch.manual_seed(0)
    source, target = build_model("yolov8n", 3), build_model("yolov8n", len(classes))
    fresh = [branch[2].weight.detach().clone() for branch in target.head.classes]
    transfer = take(target, source, classes)
    assert transfer.moved + len(transfer.new) == len(target.state_dict())
    for branch, old, before in zip(target.head.classes, source.head.classes, fresh, strict=True):
        for row, name in enumerate(classes):
            if name in OLD:
                assert torch.equal(branch[2].weight[row], old[2].weight[OLD.index(name)])
                assert torch.equal(branch[2].bias[row], old[2].bias[OLD.index(name)])
            else:
                assert torch.equal(branch[2].weight[row], before[row])
    unknown = [name for name in classes if name not in OLD]
    assert transfer.new_classes == unknown
    assert len(transfer.new) == (6 if unknown else 0)
    for name in unknown:
        assert name in str(transfer)
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(target.backbone.state_dict()[name], value)


def test_heads_and_necks_go_by_their_level() -> None:
    """P3 is the second level of a pyramid that begins at P2."""
    source, target = build_model("yolov8n", 3), build_model("yolov8n", 3, levels="P2-P5")
    transfer = take(target, source)
    for level in range(3):
        assert torch.equal(target.head.box[level + 1][1].conv.weight, source.head.box[level][1].conv.weight)
    for i in range(2):
        assert torch.equal(target.neck.down[i + 1].conv.weight, source.neck.down[i].conv.weight)
    assert {name for name in transfer.new if name.startswith("head.box.0")}
    assert not [name for name in transfer.new if name.startswith(("head.box.1", "backbone"))]
    back = build_model("yolov8n", 3)
    new = take(back, target).new
    assert all(name.startswith("head.classes") for name in new)  # they are narrower where the finest level is P2
    same = {name: value for name, value in back.state_dict().items() if name not in new}
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in same.items())


def test_afpn_stages_of_other_levels_are_not_taken() -> None:
    source, target = (build_model("yolov8n-lite", 3, levels=levels) for levels in ("P2-P5", "P3-P5"))
    new = take(target, source).new
    assert all(name in new for name in target.state_dict() if name.startswith("neck.stages"))
    assert torch.equal(target.neck.reduce[0].conv.weight, source.neck.reduce[1].conv.weight)


@pytest.mark.parametrize("variant", ["yolov8n-lite", "yolov8n-lite-adown"])
def test_a_light_model_starts_from_the_baseline(variant: str) -> None:
    source, target = build_model("yolov8n", 3), build_model(variant, 3)
    transfer = take(target, source)
    for stage in ("stage2", "stage3", "stage4", "stage5"):
        own, given = (model.backbone.get_submodule(stage).block for model in (target, source))
        assert torch.equal(own.merge.conv.weight, given.merge.conv.weight)
    assert transfer.moved > 100
    assert "neck.stages (" in str(transfer)


@pytest.mark.parametrize("variant", ["yolov8s", "yolov8m-lite"])
def test_another_scale_is_no_start(variant: str) -> None:
    target = build_model(variant, 3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError, match=r"of this model's weights are in source.ckpt, which is a yolov8n"):
        take(target, build_model("yolov8n", 3))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_fine_tuned_models_know_the_new_classes(tmp_path: Path, make_coco: Any, capsys: Any) -> None:
    """From two classes to three, of which two are known, by the commands; eval and predict read the checkpoint's."""
    start = make_coco(tmp_path / "start")
    more = make_coco(tmp_path / "more", num_classes=3)
    runs = ["--runs_dir", str(tmp_path / "runs")]
    assert train_script.main(["--data.root", str(start), *runs, *FAST]) == 0
    given = tmp_path / "runs" / "run" / "version_0" / "checkpoints" / "last.ckpt"
    assert train_script.main(["--data.root", str(more), *runs, *FAST, "--weights", str(given)]) == 0
    printed = capsys.readouterr().out
    assert "new: head.classes (6); classes that are new: class2" in printed
    tuned = tmp_path / "runs" / "run" / "version_1" / "checkpoints" / "last.ckpt"
    assert load_model(tuned).class_names == ("class0", "class1", "class2")
    score = ["--checkpoint", str(tuned), "--report", "none", "--trainer.accelerator", "cpu", "--data.num_workers", "0"]
    assert eval_script.main([*score, "--data.root", str(more)]) == 0
    assert eval_script.main([*score, "--data.root", str(start)]) == 2
    assert "only the model has ['class2']" in capsys.readouterr().err


def test_nothing_is_left_of_a_run_that_cannot_start(tmp_path: Path, make_coco: Any, capsys: Any) -> None:
    root = make_coco(tmp_path / "data")
    runs = ["--data.root", str(root), "--runs_dir", str(tmp_path / "runs")]
    assert train_script.main([*runs, *FAST]) == 0
    given = tmp_path / "runs" / "run" / "version_0" / "checkpoints" / "last.ckpt"
    command = [*runs, *FAST, "--weights", str(given), "--model.variant"]
    assert train_script.main([*command, "yolov8s"]) == 2
    frozen = ["--model.freeze", "backbone"]
    assert train_script.main([*command, "yolov8n-lite", *frozen]) == 2
    assert "would stay random" in capsys.readouterr().err
    assert train_script.main([*runs, *FAST, *frozen]) == 2
    assert "without --weights" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs" / "run").iterdir()] == ["version_0"]


def test_reading_weights_draws_no_random_numbers(tmp_path: Path) -> None:
    """A student's random start at a seed is the same with and without a teacher."""
    path = make_checkpoint(tmp_path / "a.ckpt", OLD)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    InitialWeights.read(path)
    assert torch.equal(torch.rand(3), expected)


def test_biases_go_with_their_weights() -> None:
    """From 80 classes to 3 the branches are narrower: the last layer's rows mean nothing there, its biases neither."""
    many = [*OLD, *(f"class {i}" for i in range(77))]
    source, target = build_model("yolov8n", 80), build_model("yolov8n", 3)
    before = target.head.classes[0][2].bias.detach().clone()
    torch.nn.init.constant_(source.head.classes[0][2].bias, 9.0)
    new = transfer_weights(target, OLD, weights_of(source, many)).new
    assert torch.equal(target.head.classes[0][2].bias, before)
    assert "head.classes.0.2.bias" in new
