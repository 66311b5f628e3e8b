"""`data.batch_size auto`: the choice, and what it measures."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train as train_script
from yolo_lite.training.batch_size import PeakMemory, Trial, candidates, free_memory, largest_that_fits
from yolo_lite.training.module import DetectionModule


@given(st.integers(1, 512), st.integers(1, 64))
def test_candidates_make_up_the_nominal_batch(nominal: int, processes: int) -> None:
    sizes = candidates(nominal, processes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert sizes[0] * processes <= max(nominal, processes)
    assert all((sizes[0] % size) == 0 for size in sizes)


@given(st.integers(0, 100))
def test_the_largest_that_fits(limit: int) -> None:
    chosen = largest_that_fits([64, 32, 16, 8, 4, 2, 1], lambda size: size <= limit)
    assert chosen == (None if limit == 0 else max(2**k for k in range(7) if 2**k <= limit))


def test_a_peak_is_seen() -> None:
    with PeakMemory(torch.device("cpu")) as peak:
        block = torch.ones(25_000_000)  # 100 MB, gone before the end
        del block
    assert 90e6 < peak.bytes < 150e6
    assert free_memory(torch.device("cpu")) > 0


def test_a_step_is_predicted_and_the_module_left_alone() -> None:
    module = DetectionModule("yolov8n", ["a"], image_size=128)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trial = Trial(module, torch.device("cpu"), nullcontext)
    assert 0.9 * trial.measured(32) < trial.need(32) < 2 * trial.measured(32)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(p.grad is not None for p in module.parameters())
    trial.room = int(trial.need(32) * 1.01)
    assert not trial.fits(32)  # the margin
    assert trial.fits(16)


def test_train_py_resolves_auto(tmp_path: Any, make_coco: Any, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_coco(tmp_path / "data")
    arguments = ["--data.root", str(root), "--runs_dir", str(tmp_path), "--name", "auto", "--data.batch_size", "auto"]
    arguments += ["--data.image_size", "64", "--data.num_workers", "0", "--model.variant", "yolov8n"]
    arguments += ["--model.nominal_batch", "4", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    assert train_script.main(arguments) == 0
    assert "batch size 4: " in capsys.readouterr().out
    checkpoint = torch.load(tmp_path / "auto/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2  # of eight images


def test_nothing_fits(tmp_path: Any, make_coco: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolo_lite.training.batch_size.free_memory", lambda device: 1000)
    root = make_coco(tmp_path / "data")
    arguments = ["--data.root", str(root), "--runs_dir", str(tmp_path), "--data.batch_size", "auto"]
    arguments += ["--data.image_size", "64", "--model.variant", "yolov8n", "--trainer.accelerator", "cpu"]
    assert train_script.main(arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert message[-1].startswith("error: not even one image of 64 px fits into the memory of cpu")
