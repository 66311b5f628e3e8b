"""A detector that knows coloured rectangles at 64 px, trained on the spot within seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo_lite.data.collate import collate
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.dataset import EvalDataset
from yolo_lite.deploy.exporting import export_model
from yolo_lite.deploy.model_info import ModelInfo
from yolo_lite.losses.detection import DetectionLoss
from yolo_lite.models import build_model
from yolo_lite.models.yolo import YOLO

STEPS = 100


@dataclass(frozen=True)
class Trained:
    """A detector, its data, and a checkpoint of it."""

    model: YOLO
    info: ModelInfo
    root: Path

    def data(self) -> DetectionDataModule:
        return DetectionDataModule(self.root, image_size=64, batch_size=8, num_workers=0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, make_coco: Callable[..., Any]) -> Trained:
    root = make_coco(tmp_path_factory.mktemp("trained"), num_train=16, num_val=6, size=(64, 64))
    torch.manual_seed(0)
    model = build_model("yolov8n", 2, width=0.125)
    data = DetectionDataModule(root, image_size=64, num_workers=0)
    dataset = EvalDataset(data.source("train"))
    batch = collate([dataset[i] for i in range(16)])
    loss, optimiser = DetectionLoss(model.strides, model.spec.reg_max), torch.optim.AdamW(model.parameters(), 5e-3)
    model.train()
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(model(batch.images.float() / 255), batch.targets).total.backward()
        optimiser.step()
    return Trained(model.eval(), ModelInfo.of(model, "yolov8n", ["class0", "class1"], 64), root)


@pytest.fixture(scope="session")
def checkpoint(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained detector as `--format safetensors` writes it."""
    pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    export_model(trained.model, trained.info, "safetensors", path)
    return path
