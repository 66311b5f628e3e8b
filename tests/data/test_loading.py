"""The loader that training gets: what it decodes and how often, in which processes, and what waiting for it costs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from torch.utils.data import DataLoader

from yolo_lite.data import datamodule, dataset
from yolo_lite.data.datamodule import DetectionDataModule, start_worker
from yolo_lite.training import callbacks
from yolo_lite.training.callbacks import Speed

IMAGES = 12


def train_loader(root: Path, **options: Any) -> DataLoader[Any]:
    data = DetectionDataModule(root, image_size=64, batch_size=4, **options)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, num_devices=1, world_size=1, accumulate_grad_batches=1, max_epochs=3, max_steps=-1
    )
    return data.train_dataloader()


@pytest.mark.parametrize(("cache", "after"), [("none", IMAGES), ("ram", 0)])
def test_an_image_is_decoded_once_and_no_larger_than_needed(
    tmp_path: Path, make_coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cache: str, after: int
) -> None:
    decoded: list[Path] = []
    read = dataset.decode_file

    def counted(data: Any, path: Path, at_least: int | None = None) -> Any:
        assert at_least == 64
        decoded.append(path)
        return read(data, path, at_least)

    monkeypatch.setattr(dataset, "decode_file", counted)
    loader = train_loader(make_coco(tmp_path / "data", num_train=IMAGES), cache=cache, num_workers=0)
    decoded.clear()
    batches = list(loader)
    assert sum(len(batch) for batch in batches) == IMAGES
    assert all(batch.images.dtype == torch.uint8 for batch in batches)
    assert len(decoded) == len(set(decoded)) == after


def test_spawned_workers_load_the_same(tmp_path: Path, make_coco: Callable[..., Path]) -> None:
    root = make_coco(tmp_path / "data", num_train=IMAGES)
    here, there = train_loader(root, cache="ram", num_workers=0), train_loader(root, cache="ram", num_workers=1)
    there.multiprocessing_context = "spawn"
    for ours, theirs in zip(here, there, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.targets.boxes_xyxy, theirs.targets.boxes_xyxy)


def test_a_worker_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "STOP_SIGNALS", ())  # this process goes on
    before = cv2.getNumThreads(), torch.get_num_threads()
    try:
        cv2.setNumThreads(4)
        torch.set_num_threads(4)
        start_worker(0)
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (1, 1)
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


@pytest.mark.parametrize(("wait", "advised"), [(8.0, 1), (1.0, 0)])
def test_waiting_for_data_is_logged_and_advised_on_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wait: float, advised: int
) -> None:
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    logged: dict[str, float] = {}
    module: Any = SimpleNamespace(log=lambda *_, **__: None, log_dict=lambda values, **_: logged.update(values))
    trainer: Any = SimpleNamespace(world_size=1, num_training_batches=5, current_epoch=0)
    speed, batch = Speed(), [None] * 4
    monkeypatch.setattr(logging.getLogger("yolo_lite"), "propagate", True)
    for trainer.current_epoch in range(4):
        speed.on_train_epoch_start(trainer, module)
        for i in range(trainer.num_training_batches):
            now[0] += wait
            speed.on_train_batch_start(trainer, module, batch, i)  # type: ignore[arg-type]
            now[0] += 10 - wait
            speed.on_train_batch_end(trainer, module, None, batch, i)  # type: ignore[arg-type]
        assert logged["time/data_wait"] == pytest.approx(wait / 10)
    said = {id(record) for record in caplog.records if "waiting for data" in record.getMessage()}
    assert len(said) == advised
