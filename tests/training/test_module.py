"""The LightningModule and its callbacks: what a run must do, and must leave alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.training.callbacks import NominalBatch
from yolo_lite.training.checkpoints import LastCheckpoint
from yolo_lite.training.ema import WeightEMA
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.optim import WarmupDecay, parameter_groups
from yolo_lite.training.stopping import NonFiniteGuard
from yolo_lite.training.trainer import silent_trainer
from yolo_lite.utils.errors import NonFiniteLossError


@pytest.fixture
def data(tmp_path: Path, make_coco) -> DetectionDataModule:  # type: ignore[no-untyped-def]
    make_coco(tmp_path / "data")
    return DetectionDataModule(tmp_path / "data", image_size=64, batch_size=4, num_workers=0, cache="none")


def fit(data: DetectionDataModule, folder: Path, callbacks: list[L.Callback], epochs: int = 1) -> DetectionModule:
    torch.manual_seed(0)
    module = DetectionModule("yolov8n", data.check(), image_size=64)
    trainer = silent_trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        enable_checkpointing=any(isinstance(c, LastCheckpoint) for c in callbacks),
        num_sanity_val_steps=0,
        callbacks=callbacks,
    )
    trainer.fit(module, datamodule=data)
    return module


class BuffersAroundValidation(L.Callback):
    """Compares every tensor after validation with what the last training step left."""

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.compared = 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert trainer.callback_metrics["val/map_50_95"] >= 0  # it was validated
        for name, value in pl_module.state_dict().items():
            assert torch.equal(value, self.before[name]), name
        self.compared += 1


@pytest.mark.parametrize("with_ema", [False, True])
def test_validation_changes_no_tensor(data: DetectionDataModule, tmp_path: Path, with_ema: bool) -> None:
    watcher = BuffersAroundValidation()
    ema: list[L.Callback] = [WeightEMA()] if with_ema else []
    fit(data, tmp_path, [watcher, *ema], epochs=2)
    assert watcher.compared == 2


def test_non_finite_loss_names_images_and_saves(data: DetectionDataModule, tmp_path: Path) -> None:
    class Poison(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            with torch.no_grad():
                pl_module.model.head.box[0][-1].bias.fill_(float("nan"))

    with pytest.raises(NonFiniteLossError, match=r"images \[") as caught:
        fit(data, tmp_path, [Poison(), NonFiniteGuard(), LastCheckpoint()])
    assert caught.value.exit_code == 3
    assert list(tmp_path.rglob("non_finite.ckpt"))


def test_a_whole_run_without_any_object(tmp_path: Path, make_coco) -> None:  # type: ignore[no-untyped-def]
    """Trained on background alone, scored as nothing to score."""
    root = make_coco(tmp_path / "data", empty_images=range(8))
    empty = DetectionDataModule(root, image_size=64, batch_size=4, num_workers=0, cache="none")
    module = fit(empty, tmp_path, [NonFiniteGuard(), WeightEMA()], epochs=2)
    assert module.scores is not None
    assert module.scores.num_images == 4
    assert set(module.scores.numbers.values()) == {-1.0}
    assert all(torch.isfinite(p).all() for p in module.parameters())


@pytest.mark.parametrize("given", [1, 4])
def test_nominal_batch_with_lightnings_own_trainer(data: DetectionDataModule, given: int) -> None:
    """There an accumulation of 1 is the default, anything else was asked for."""
    trainer: Any = SimpleNamespace(accumulate_grad_batches=given, datamodule=data, world_size=1)
    NominalBatch().setup(trainer, DetectionModule("yolov8n", ["a"], nominal_batch=8), "fit")
    assert trainer.accumulate_grad_batches == (2 if given == 1 else given)


class WindowGradients(L.Callback):
    """Compares the gradient of every optimiser step with the sum over the images of its window, computed anew."""

    def __init__(self) -> None:
        self.window: list[Any] = []
        self.images: list[int] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for module in pl_module.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.window.append(batch)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        parameters = [p for p in pl_module.parameters() if p.grad is not None]
        total = sum(pl_module.loss(pl_module(b.images), b.targets).total * len(b) for b in self.window)
        expected = torch.autograd.grad(total, parameters)
        for parameter, gradient in zip(parameters, expected, strict=True):
            assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
        self.images.append(sum(len(batch) for batch in self.window))
        self.window = []


def test_the_incomplete_last_window_counts_its_images(tmp_path: Path, make_coco) -> None:  # type: ignore[no-untyped-def]
    """Seven images in batches of two, two batches a step: steps of four and of three images, the last batch of one."""
    root = make_coco(tmp_path / "data", num_train=7, boxes_per_image=2)
    seven = DetectionDataModule(root, image_size=64, batch_size=2, num_workers=0, cache="none")
    watcher = WindowGradients()
    torch.manual_seed(0)
    module = DetectionModule("yolov8n", seven.check(), image_size=64)
    trainer = silent_trainer(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=2, limit_val_batches=0, callbacks=[watcher]
    )
    trainer.fit(module, datamodule=seven)
    assert watcher.images == [4, 3, 4, 3]
    assert trainer.global_step == 4
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 4  # warm-up and decay count optimiser steps
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == 4


@pytest.mark.parametrize(("optimizer", "factor"), [("adamw", 2.0), ("sgd", 1.0)])
def test_learning_rate_follows_the_batch(optimizer: str, factor: float) -> None:
    """At four times the nominal batch: SGD's gradient is a sum and grows by itself, Adam's step does not."""
    module = DetectionModule("yolov8n", ["a"], image_size=64, optimizer=optimizer, lr=0.01, nominal_batch=8)  # type: ignore[arg-type]
    trainer: Any = SimpleNamespace(
        accumulate_grad_batches=1,
        world_size=4,
        num_training_batches=10,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
        estimated_stepping_batches=100,
        datamodule=SimpleNamespace(images_per_batch=8),
    )
    module.trainer = trainer
    configured: Any = module.configure_optimizers()
    assert configured["lr_scheduler"]["scheduler"].base_lrs[0] == pytest.approx(0.01 * factor)


def test_every_trainable_parameter_is_in_one_group() -> None:
    module = DetectionModule("yolov8n-lite", ["a"], image_size=64)
    groups = parameter_groups(module.model, 5e-4)
    listed = [id(p) for group in groups for p in group["params"]]  # type: ignore[attr-defined]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in module.parameters() if p.requires_grad}
    decayed = next(g for g in groups if g["name"] == "weight")["params"]
    assert all(p.ndim == 4 for p in decayed)  # type: ignore[attr-defined]
    assert {g["name"]: g["weight_decay"] for g in groups} == {"weight": 5e-4, "norm": 0.0, "bias": 0.0}


def test_warm_up_then_decay_to_the_final_rate() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    groups = [{"name": "weight", "params": [parameter]}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.937, nesterov=True)
    schedule = WarmupDecay(optimizer, total_steps=100, warmup_steps=10, final_fraction=0.01)
    rates, momenta = [], []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0.0
    assert momenta[0] == pytest.approx(0.8)
    assert momenta[10] == pytest.approx(0.937)
    assert max(rates) == rates[10] == pytest.approx(0.01 * (1 - 0.99 * 0.1))
    assert rates[-1] == pytest.approx(0.01 * (1 - 0.99 * 0.99))


def test_a_small_momentum_does_not_warm_up_from_above() -> None:
    groups = [{"name": "weight", "params": [torch.nn.Parameter(torch.zeros(1))]}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.5)
    schedule = WarmupDecay(optimizer, total_steps=20, warmup_steps=10)
    for _ in range(20):
        assert optimizer.param_groups[0]["momentum"] == 0.5
        optimizer.step()
        schedule.step()
