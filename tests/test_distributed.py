"""Several processes: scoring counts every image once, training is the same command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.types import Batch
from yolo_lite.ops.postprocess import Detections
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.trainer import silent_trainer

REPOSITORY = Path(__file__).parents[1]


class NoisyTruth(DetectionModule):
    """Finds moved copies of the objects, with scores and clutter that depend on the image's id alone."""

    def detect_batch(self, batch: Batch) -> tuple[list[torch.Tensor], list[Detections]]:
        found = []
        index = self.ground_truth()
        for image_id in batch.image_ids.tolist():
            rng = np.random.default_rng(image_id)
            row = int(np.flatnonzero(index.image_ids == image_id)[0])
            truth = index.boxes_xywh[index.rows(row)]
            boxes = np.concatenate([truth[:, :2], truth[:, :2] + truth[:, 2:]], axis=1)
            boxes = np.concatenate([boxes + rng.normal(0, 4, boxes.shape), rng.uniform(0, 60, (3, 4)).cumsum(axis=1)])
            labels = np.concatenate([index.labels[index.rows(row)], rng.integers(0, 2, 3)])
            scores = np.round(rng.uniform(0.1, 1, len(boxes)), 1)  # equal scores in plenty
            found.append(
                Detections(torch.tensor(boxes).float(), torch.tensor(scores).float(), torch.tensor(labels).long())
            )
        return self(batch.images), found


class WriteScores(L.Callback):
    """Rank 0 writes what it scored, and every rank what it saw."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.seen: list[int] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """BatchNorm statistics that differ from rank to rank, as after an epoch of training."""
        with torch.no_grad():
            for name, buffer in pl_module.named_buffers():
                if "running" in name:
                    buffer += trainer.global_rank

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self.seen += batch.image_ids.tolist()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        path = self.target.with_name(f"{self.target.name}.{trainer.global_rank}")
        scores = pl_module.scores
        result = {"numbers": scores.numbers, "classes": scores.per_class, "images": scores.num_images}
        statistics = sum(b.double().sum().item() for name, b in pl_module.named_buffers() if "running" in name)
        path.write_text(json.dumps({**result, "seen": self.seen, "statistics": statistics}))


def score(root: Path, target: Path, processes: int) -> list[dict[str, Any]]:
    """What each rank of a validation run reports."""
    module = NoisyTruth("yolov8n", ["class0", "class1"], image_size=64)
    data = DetectionDataModule(root, image_size=64, batch_size=2, num_workers=0, cache="none")
    strategy = "ddp_spawn" if processes > 1 else "auto"
    watcher = WriteScores(target)
    trainer = silent_trainer(accelerator="cpu", devices=processes, strategy=strategy, callbacks=[watcher])
    trainer.validate(module, datamodule=data, verbose=False)
    return [json.loads(target.with_name(f"{target.name}.{rank}").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("num_images", [7, 1], ids=["uneven", "fewer_images_than_processes"])
def test_two_processes_score_as_one(num_images: int, tmp_path: Path, make_coco: Any) -> None:
    root = make_coco(tmp_path / "data", num_val=num_images, boxes_per_image=2)
    (alone,) = score(root, tmp_path / "one", 1)
    both = score(root, tmp_path / "two", 2)
    assert 0 < alone["numbers"]["map_50_95"] < 1
    for rank in both:
        assert rank["numbers"] == pytest.approx(alone["numbers"], abs=1e-6)
        assert rank["classes"] == pytest.approx(alone["classes"], abs=1e-6)
    assert {*both[0]["seen"], *both[1]["seen"]} == {*alone["seen"]}
    assert len(alone["seen"]) == num_images
    assert both[0]["images"] == both[1]["images"] == num_images
    assert both[0]["statistics"] == both[1]["statistics"] == pytest.approx(alone["statistics"])


def test_training_on_two_processes(tmp_path: Path, make_coco: Any) -> None:
    """The README's flags, on two processes of the CPU: one run folder, one checkpoint, one line an epoch."""
    root = make_coco(tmp_path / "data", num_val=3)
    command = [sys.executable, str(REPOSITORY / "train.py"), "--data.root", str(root), "--data.image_size", "64"]
    command += ["--data.batch_size", "2", "--data.num_workers", "0", "--model.variant", "yolov8n", "--name", "ddp"]
    command += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command += ["--trainer.max_epochs", "1", "--trainer.precision", "32-true"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    runs = list((tmp_path / "runs" / "ddp").iterdir())
    assert [run.name for run in runs] == ["version_0"]
    assert torch.load(runs[0] / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    assert (runs[0] / "metrics.csv").is_file()
    assert result.stdout.count("epoch 1/1") == 1
