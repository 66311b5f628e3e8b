"""Killed at any moment, the writing of a checkpoint included, a run loses nothing that it had saved."""

from __future__ import annotations

import csv
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train as train_script
from yolo_lite.utils.checkpoints import read_checkpoint

EPOCHS = 50


def start(arguments: list[str], log: Path) -> int:
    """Train in a process of its own, forked so that it need not import everything again; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open(log, "a") as file:
            sys.stdout = sys.stderr = file
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = train_script.main(arguments)
    finally:
        os._exit(code)


def is_saving(folder: Path, pid: int) -> bool:
    """The process has a checkpoint half written, or had when it died."""
    return bool(list(folder.rglob(f".*.ckpt.{pid}.tmp")))


def newest_save(folder: Path) -> int:
    """When the last whole checkpoint was written, nanoseconds; 0 before the first."""
    return max((path.stat().st_mtime_ns for path in folder.rglob("last.ckpt")), default=0)


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for something, a minute at most."""
    deadline = time.monotonic() + 60
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.001)


def wait_for_end(pid: int) -> int:
    """The exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_at_random_moments(kills: int, tmp_path: Path, make_coco: Any) -> None:
    root = make_coco(tmp_path / "data", num_train=4, num_val=1)
    settings = [
        "--data.root",
        str(root),
        "--data.image_size",
        "32",
        "--data.batch_size",
        "4",
        "--data.num_workers",
        "0",
    ]
    settings += ["--model.variant", "yolov8n", "--model.nominal_batch", "4", "--trainer.accelerator", "cpu"]
    settings += ["--trainer.max_epochs", str(EPOCHS), "--trainer.precision", "32-true", "--name", "run"]
    settings += ["--ema.decay", "0.9", "--ema.ramp", "5"]  # that of so few steps would be the raw weights
    settings += ["--trainer.deterministic", "true"]
    settings += ["--trainer.logger", "false"]  # a life must be long enough to save something
    interrupted, straight = tmp_path / "interrupted", tmp_path / "straight"
    rng = random.Random(0)
    caught_saving, steps = 0, [0]
    for kill in range(kills):
        pid = start([*settings, "--runs_dir", str(interrupted), "--ckpt_path", "last"], tmp_path / f"log{kill}")
        if kill % 3 == 0:  # while it saves, for the chance to hit that is small; not always for the first time
            time.sleep(rng.uniform(0, 2))
            wait_until(lambda pid=pid: is_saving(interrupted, pid))
            time.sleep(rng.uniform(0, 0.03))
        elif kill % 3 == 1:  # some time after it saved: however slow this machine is, the run gets on
            saved = newest_save(interrupted)
            wait_until(lambda saved=saved: newest_save(interrupted) > saved)
            time.sleep(rng.uniform(0, 0.5))
        else:
            time.sleep(rng.uniform(0.1, 3))
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid) == -signal.SIGKILL, (tmp_path / f"log{kill}").read_text()
        caught_saving += is_saving(interrupted, pid)
        whole = [path for path in interrupted.rglob("*.ckpt") if not path.name.startswith(".")]
        step = max((int(read_checkpoint(path)["global_step"]) for path in whole), default=0)  # never unreadable
        assert step >= steps[-1]
        steps.append(step)
    assert caught_saving >= kills // 5
    assert 0 < steps[-1] < EPOCHS

    for folder in (interrupted, straight):
        pid = start([*settings, "--runs_dir", str(folder), "--ckpt_path", "last"], tmp_path / "log")
        assert wait_for_end(pid) == 0, (tmp_path / "log").read_text()
    # Of a life that saved nothing yet a folder without checkpoints may be left.
    (run,) = {path.parent.parent for path in interrupted.rglob("last.ckpt")}
    expected = straight / "run" / "version_0"
    assert [int(row["epoch"]) for row in rows(run)] == list(range(EPOCHS))
    assert rows(run) == rows(expected)
    ends = [
        torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (run, straight / "run" / "version_0")
    ]
    for state in ("raw_state_dict", "state_dict"):
        assert all(torch.equal(ends[0][state][name], value) for name, value in ends[1][state].items())
    assert not list((run / "checkpoints").glob(".*"))
