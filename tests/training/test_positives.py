"""A run that assigns no anchor to any object says so, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from yolo_lite.cli import trainer_defaults
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.training.callbacks import PositivesWatch
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.trainer import silent_trainer


def warnings_of_a_run(root: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    data = DetectionDataModule(root, image_size=64, batch_size=4, num_workers=0, cache="none")
    torch.manual_seed(0)
    module = DetectionModule("yolov8n", data.check(), image_size=64)
    trainer = silent_trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=folder, limit_val_batches=0, callbacks=[PositivesWatch()]
    )
    trainer.fit(module, datamodule=data)
    return [message for message in caplog.messages if "no anchor" in message]


@pytest.fixture(autouse=True)
def propagate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)


def test_silent_on_healthy_data(tmp_path: Path, make_coco, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    assert warnings_of_a_run(make_coco(tmp_path / "data"), tmp_path, caplog) == []


def test_silent_without_objects(tmp_path: Path, make_coco, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    root = make_coco(tmp_path / "data", empty_images=range(8))
    assert warnings_of_a_run(root, tmp_path, caplog) == []


def test_one_line_where_no_anchor_is_positive(tmp_path: Path, make_coco, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    """Boxes of a pixel in much larger images: no centre of a cell is inside."""
    root = make_coco(tmp_path / "data", size=(1024, 1024))
    path = root / "annotations" / "train.json"
    data = json.loads(path.read_text())
    for annotation in data["annotations"]:
        annotation["bbox"] = [500, 500, 2, 2]
    path.write_text(json.dumps(data))
    (line,) = warnings_of_a_run(root, tmp_path, caplog)
    assert "python -m yolo_lite.data.doctor" in line


def test_every_run_has_it() -> None:
    assert any(isinstance(callback, PositivesWatch) for callback in trainer_defaults()["callbacks"])
