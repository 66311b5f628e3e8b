"""No setting is decoration: each one that can be typed changes what happens."""

from __future__ import annotations

import dataclasses
import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from yolo_lite.data.augment import AugmentConfig, Augmenter
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.geometry import Drawn
from yolo_lite.training.module import DetectionModule
from yolo_lite.utils.errors import UserError

# Every setting of the model with a value that is not its default: what shows that it was heard.
STRUCTURE = {
    "variant": "yolov8n-lite-adown",
    "class_names": ["a", "b", "c"],
    "block": "c2f",
    "downsample": "conv",
    "neck": "pafpn",
    "levels": "P3-P5",
    "neck_divisor": 4,
    "neck_width": 64,
    "reg_max": 8,
    "head": "separable",
    "width": 0.5,
    "depth": 1.0,
}
LOSS = {"box_gain": 1.0, "class_gain": 1.0, "dfl_gain": 1.0, "assign_top_k": 2}
SCHEDULE = {
    "optimizer": "sgd",
    "lr": 0.5,
    "final_lr_fraction": 0.5,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "momentum": 0.5,
    "weight_decay": 0.1,
    "nominal_batch": 32,
}
OTHERS = {"image_size": 96, "neck_init": "default", "act": "relu"}
# In tests/training: test_freezing.py, test_distillation.py, test_norm_statistics.py.
ELSEWHERE = {"freeze", "teacher", "distill_weight", "teacher_cache", "norm_momentum"}


def build(**settings: Any) -> DetectionModule:
    torch.manual_seed(0)
    return DetectionModule(**{"class_names": ["a", "b"], "optimizer": "adamw", **settings})


def shapes(module: DetectionModule) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.model.state_dict().items()}


def losses(module: DetectionModule) -> list[float]:
    """The three terms for the same maps and one object."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 66, 64 // s, 64 // s, generator=generator) for s in module.model.strides]
    boxes, labels = torch.tensor([[[8.0, 8.0, 50.0, 60.0]]]), torch.tensor([[1]])
    items = module.loss(maps, SimpleNamespace(boxes_xyxy=boxes, labels=labels, mask=torch.tensor([[True]])))  # type: ignore[arg-type]
    return [items.box.item(), items.classes.item(), items.dfl.item()]


def rates(module: DetectionModule) -> list[tuple[Any, ...]]:
    """What the optimiser's groups hold at some steps of a run of 100."""
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        estimated_stepping_batches=100,
        num_training_batches=10,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
        accumulate_grad_batches=1,
        world_size=1,
        datamodule=SimpleNamespace(images_per_batch=8),
    )
    configured: Any = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    seen = []
    for _ in range(100):
        for group in optimizer.param_groups:
            seen.append((type(optimizer), *(group.get(k) for k in ("lr", "weight_decay", "momentum", "betas"))))
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure(name: str) -> None:
    assert shapes(build(**{name: STRUCTURE[name]})) != shapes(build())


@pytest.mark.parametrize("name", LOSS)
def test_loss(name: str) -> None:
    assert losses(build(**{name: LOSS[name]})) != losses(build())


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, "adamw") for name in SCHEDULE), ("momentum", "sgd"), ("lr", "sgd")]
)
def test_optimiser_and_schedule(name: str, optimizer: str) -> None:
    assert rates(build(**{"optimizer": optimizer, name: SCHEDULE[name]})) != rates(build(optimizer=optimizer))


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.937), ("adamw", 0.9)])
def test_usual_momentum(optimizer: str, momentum: float) -> None:
    assert rates(build(optimizer=optimizer, momentum=momentum)) == rates(build(optimizer=optimizer))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_momentum(optimizer: str) -> None:
    assert rates(build(optimizer=optimizer, momentum=0.0)) != rates(build(optimizer=optimizer))


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_out_of_range(momentum: float) -> None:
    with pytest.raises(UserError, match=f"model.momentum={momentum}"):
        build(momentum=momentum)


def test_the_rest_of_the_model() -> None:
    assert build(image_size=96).image_size == 96
    values = [torch.cat([p.flatten() for p in build(**s).parameters()]) for s in ({}, {"neck_init": "default"})]
    assert not torch.equal(*values)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    usual, other = (build(**s)(images)[0] for s in ({}, {"act": "relu"}))
    assert not torch.allclose(usual, other)
    covered = {*STRUCTURE, *LOSS, *SCHEDULE, *OTHERS, *ELSEWHERE}
    assert covered == set(inspect.signature(DetectionModule).parameters)


def test_loader_settings(make_coco, tmp_path) -> None:  # type: ignore[no-untyped-def]
    root = make_coco(tmp_path / "data")
    orders = []
    for seed, batch_size, workers in ((0, 2, 0), (1, 4, 1)):
        data = DetectionDataModule(root, 96, batch_size, workers, cache="none", seed=seed)
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=0,
            num_devices=1,
            world_size=1,
            current_epoch=0,
            max_epochs=1,
            max_steps=-1,
            accumulate_grad_batches=1,
        )
        loader = data.train_dataloader()
        assert loader.num_workers == workers
        batches = list(loader)
        assert [len(batch) for batch in batches] == [batch_size] * (8 // batch_size)
        assert batches[0].images.shape[2:] == (96, 96)
        orders.append([i for batch in batches for i in batch.image_ids.tolist()])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


STILL = {"mosaic": 0, "scale": 0, "translate": 0, "hsv_hue": 0, "hsv_saturation": 0, "hsv_value": 0, "flip": 0}
WEAK = AugmentConfig(**STILL)  # type: ignore[arg-type]
STRONG: dict[str, dict[str, Any]] = {
    "mosaic": {"mosaic": 1.0},
    "mosaic9": {"mosaic": 1.0, "mosaic9": 1.0},
    "mixup": {"mixup": 1.0},
    "cutmix": {"cutmix": 1.0},
    "copy_paste": {"copy_paste": 1.0},
    "scale": {"scale": 0.5},
    "translate": {"translate": 0.3},
    "rotate": {"rotate": 30.0},
    "shear": {"shear": 20.0},
    "perspective": {"perspective": 0.5},
    "affine": {"affine": 0.0, "rotate": 30.0},
    "flip": {"flip": 1.0},
    "flip_vertical": {"flip_vertical": 1.0},
    "hsv_hue": {"hsv_hue": 0.3},
    "hsv_saturation": {"hsv_saturation": 0.9},
    "hsv_value": {"hsv_value": 0.9},
    "hsv": {"hsv": 0.0, "hsv_value": 0.9},
    "grey": {"grey": 1.0},
    "blur": {"blur": 1.0},
    "blur_limit": {"blur": 1.0, "blur_limit": 31},
    "jpeg": {"jpeg": 1.0},
    "jpeg_quality": {"jpeg": 1.0, "jpeg_quality": 1},
    "extra": {"extra": [{"InvertImg": {"p": 1.0}}]},
}
# Strengths that something else must switch on: compared with that alone.
BASES = {name: {k: v for k, v in STRONG[name].items() if k != name} for name in STRONG}


def view(config: AugmentConfig) -> np.ndarray:
    """An augmented sample of random images, always with the same random numbers."""

    def load(i: int) -> Drawn:
        image = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        return Drawn(image, np.array([[8.0, 8.0, 30.0, 30.0]], dtype=np.float32), np.array([0]))

    image, *_ = Augmenter(config, 64, load, 8)(0, np.random.default_rng(0), use_mosaic=True)
    return np.asarray(image)


@pytest.mark.parametrize("name", STRONG)
def test_every_strength_changes_the_image(name: str) -> None:
    changed, base = dataclasses.replace(WEAK, **STRONG[name]), dataclasses.replace(WEAK, **BASES[name])
    assert not np.array_equal(view(changed), view(base))


def test_close_mosaic_and_all_strengths_are_covered() -> None:
    assert {f.name for f in dataclasses.fields(AugmentConfig)} == {*STRONG, "close_mosaic"}
    assert AugmentConfig(close_mosaic=5).mosaic_epochs(100) != AugmentConfig(close_mosaic=10).mosaic_epochs(100)
