"""BatchNorm's running statistics follow the weights fast enough for the length of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from torch import nn

from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.trainer import silent_trainer
from yolo_lite.utils.errors import UserError


class StopAtOnce(L.Callback):
    """Ends the run after its first step."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = True


def momenta(data: DetectionDataModule, epochs: int, **settings: float) -> set[float | None]:
    """Of all BatchNorm layers, once a run of so many epochs (two steps each) has begun."""
    module = DetectionModule("yolov8n-edge", data.check(), image_size=64, nominal_batch=4, **settings)  # type: ignore[arg-type]
    trainer = silent_trainer(accelerator="cpu", max_epochs=epochs, limit_val_batches=0, callbacks=[StopAtOnce()])
    trainer.fit(module, datamodule=data)
    return {m.momentum for m in module.modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.fixture
def data(tmp_path: Path, make_coco) -> DetectionDataModule:  # type: ignore[no-untyped-def]
    make_coco(tmp_path / "data")
    return DetectionDataModule(tmp_path / "data", image_size=64, batch_size=4, num_workers=0, cache="none")


def test_short_and_long_runs(data: DetectionDataModule) -> None:
    assert momenta(data, 4_000) == {0.1}
    assert momenta(data, 6_000) == {0.03}
    assert momenta(data, 6_000, norm_momentum=0.2) == {0.2}


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5])
def test_shares_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="norm_momentum"):
        DetectionModule("yolov8n", ["a"], norm_momentum=value)
