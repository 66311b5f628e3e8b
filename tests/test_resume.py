"""A run that is stopped and goes on is the run that was never stopped."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
EPOCHS = 4
# The last of four epochs is without mosaic.
SETTINGS = [
    *("--data.image_size", "64", "--data.cache", "none", "--model.variant", "yolov8n", "--trainer.accelerator", "cpu"),
    *("--trainer.precision", "32-true", "--trainer.deterministic", "true", "--trainer.max_epochs", str(EPOCHS)),
    *("--data.augment.close_mosaic", "1", "--model.nominal_batch", "8", "--name", "run", "--model.lr", "0.01"),
    *("--ema.decay", "0.9", "--ema.ramp", "5"),  # that of so few steps would be the raw weights
]


def run(
    folder: Path, root: Path, processes: int, hooks: dict[str, Any], *extra: str
) -> subprocess.CompletedProcess[str]:
    """Train in processes of their own, with `hooks` (see hooked_train.py), in `folder`."""
    (folder / "record").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "hooked_train.py"), json.dumps({"record": str(folder / "record"), **hooks})]
    command += ["--data.root", str(root), "--runs_dir", str(folder), *SETTINGS, *extra]
    if processes == 1:  # with two loader processes: what is prefetched must not be lost or seen twice
        command += ["--data.num_workers", "2", "--data.batch_size", "4"]
    else:
        command += ["--data.num_workers", "0", "--data.batch_size", str(8 // processes)]
        command += ["--trainer.devices", str(processes), "--trainer.strategy", "ddp"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def steps(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What a rank saw, batch by batch."""
    lines = [json.loads(line) for line in (folder / "record" / f"rank{rank}.jsonl").read_text().splitlines()]
    return lines


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "run" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)  # type: ignore[no-any-return]


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the times."""
    with open(folder / "run" / "version_0" / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Bit-equal, whatever is nested in what."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}/{i}")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_coco) -> Path:  # type: ignore[no-untyped-def]
    """22 images: the epoch's last batch is short on one process and on two."""
    return make_coco(tmp_path_factory.mktemp("resume") / "data", num_train=22, num_val=3)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Callable[[int], Path]:
    """The folder of a run of so many processes that nobody stopped."""
    made: dict[int, Path] = {}

    def find(processes: int) -> Path:
        if processes not in made:
            folder = tmp_path_factory.mktemp("straight")
            result = run(folder, root, processes, {})
            assert result.returncode == 0, result.stderr
            made[processes] = folder
        return made[processes]

    return find


# Three optimiser steps an epoch: a kill between two epochs, a signal inside the third, one inside the fourth epoch,
# which is without mosaic. On two processes each takes 40 s.
@pytest.mark.parametrize(
    ("processes", "name", "when", "at", "code"),
    [
        (1, "SIGKILL", "epoch", 2, -9),
        (1, "SIGTERM", "step", 6, 143),
        (1, "SIGUSR1", "step", 9, 138),
        pytest.param(2, "SIGKILL", "epoch", 2, -9, marks=pytest.mark.slow),
        (2, "SIGTERM", "step", 6, 143),
        pytest.param(2, "SIGUSR1", "step", 9, 138, marks=pytest.mark.slow),
    ],
)
def test_stop_and_resume_equals_straight(
    straight: Callable[[int], Path],
    tmp_path: Path,
    root: Path,
    processes: int,
    name: str,
    when: str,
    at: int,
    code: int,
) -> None:
    expected = straight(processes)
    stopped = run(tmp_path, root, processes, {"signal": name, "when": when, "at": at, "rank": 0})
    assert stopped.returncode == code, stopped.stderr
    assert len(metrics(tmp_path)) < EPOCHS
    if name != "SIGKILL":
        assert f"stopped by {name}" in stopped.stderr
        assert "Traceback" not in stopped.stderr
    resumed = run(tmp_path, root, processes, {}, "--ckpt_path", "last")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_0"]

    ours, theirs = checkpoint(tmp_path), checkpoint(expected)
    for key in ("raw_state_dict", "state_dict", "optimizer_states", "lr_schedulers", "global_step", "random_states"):
        assert_equal(ours[key], theirs[key], key)
    assert ours["callbacks"]["WeightEMA"] == theirs["callbacks"]["WeightEMA"]
    assert ours["raw_state_dict"].keys() == ours["state_dict"].keys()
    for rank in range(processes):
        assert steps(tmp_path, rank) == steps(expected, rank)
    assert metrics(tmp_path) == metrics(expected)
    assert [int(row["epoch"]) for row in metrics(tmp_path)] == list(range(EPOCHS))
    best = [torch.load(f / "run/version_0/checkpoints/best.ckpt", weights_only=True) for f in (tmp_path, expected)]
    assert_equal(best[0]["state_dict"], best[1]["state_dict"])


def test_ranks_have_the_same_weights_and_other_images(straight: Callable[[int], Path]) -> None:
    """From the first step on: initial weights, average, losses; every image of an epoch is on one rank only."""
    folder = straight(2)
    one, other = (steps(folder, rank) for rank in range(2))
    for a, b in zip(one, other, strict=True):
        assert (a["weights"], a["losses"]) == (b["weights"], b["losses"])
        assert not {*a["images"]} & {*b["images"]}
        assert a["pixels"] != b["pixels"]
    averages = [torch.load(folder / "record" / f"average_rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert_equal(averages[0], averages[1])
    assert_equal(dict(averages[0]), dict(checkpoint(folder)["state_dict"]))
